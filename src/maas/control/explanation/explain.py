"""Explanations: call a deployment's model many times, at low priority, as predictions do."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from typing import Any

from maas.control.explanation.request import PredictRows, RowToExplain
from maas.control.reconciliation.plans import ReplicaGroup
from maas.control.reconciliation.reconciler import Reconciler
from maas.domain.errors import DeadlineExceeded, Overloaded, Unavailable
from maas.domain.numbers import format_number
from maas.domain.signature import Signature
from maas.serving.wire.messages import Priority
from maas.serving.wire.tensors import Tensors

DEADLINE_S = 60.0
MAX_RUNNING = 3
"""The last place is reserved for a key with no running explanation, so that no key can use all."""
RETRY_AFTER_S = 5.0
BATCH_ROWS = 32
"""Most rows per prediction: few enough that other requests do not wait long behind one."""

BackgroundOf = Callable[[str, int], dict[str, Any] | None]
"""From a model and a version number to the published background rows; blocks."""


@dataclass
class ExplanationCost:
    """Predictions that an explanation made."""

    rows: int = 0
    compute_us: int = 0
    """Share of the model's run time, microseconds."""


class Explainer:
    """Runs at most a few explanations at once, each in a thread and with a deadline."""

    def __init__(self, reconciler: Reconciler, background_of: BackgroundOf) -> None:
        self._reconciler = reconciler
        self._background_of = background_of
        self._threads = ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix="explain")
        self._running: Counter[str] = Counter()
        """Number of running explanations per key."""

    async def explain(
        self,
        deployment: str,
        row: RowToExplain,
        cost: ExplanationCost | None = None,
        until: float = math.inf,
        key: str = "",
    ) -> dict[str, Any]:
        """`Explanation.to_dict()` with deployment, model, version and variant; adds to `cost`.

        Times out after DEADLINE_S, or at `until` on the monotonic clock. `key` is the id of the
        caller's key. Raises MaasError.
        """
        cost = ExplanationCost() if cost is None else cost
        group, _ = self._reconciler.ready_replica(deployment)
        self._check_limits(key)
        self._running[key] += 1
        try:
            explanation = await self._explain(deployment, group, row, cost, until)
        finally:
            self._running -= Counter([key])  # drops keys whose count is 0
        return {
            "deployment": deployment,
            "model": group.template.model,
            "version": group.target.version,
            "variant": group.template.variant,
        } | explanation

    async def _explain(
        self,
        deployment: str,
        group: ReplicaGroup,
        row: RowToExplain,
        cost: ExplanationCost,
        until: float,
    ) -> dict[str, Any]:
        if row.background is None:
            background = await asyncio.to_thread(
                self._background_of, group.template.model, group.target.version
            )
            row = replace(row, background=background)
        loop = asyncio.get_running_loop()
        start = time.monotonic()
        deadline = min(start + DEADLINE_S, until)

        def predict(tensors: Tensors, rows: int) -> Tensors:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise _too_late(deadline - start)
            prediction = self._predict(deployment, group.digest, tensors, rows, deadline)
            future = asyncio.run_coroutine_threadsafe(prediction, loop)
            try:
                outputs, compute_us = future.result(remaining + 2.0)
            except FutureTimeout:
                raise _too_late(deadline - start) from None
            cost.rows += rows
            cost.compute_us += compute_us
            return outputs

        return await loop.run_in_executor(
            self._threads, _shapley_values, group.template.signature, row, predict
        )

    def _check_limits(self, key: str) -> None:
        running = self._running.total()
        if running >= MAX_RUNNING:
            message = f"{MAX_RUNNING} explanations are running, which is the limit"
        elif self._running[key] and running == MAX_RUNNING - 1:
            message = (
                f"{self._running[key]} explanations are running for this key, which is its limit"
            )
        else:
            return
        raise Overloaded(message, retry_after=RETRY_AFTER_S)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _predict(
        self, deployment: str, digest: str, tensors: Tensors, rows: int, deadline: float
    ) -> tuple[Tensors, int]:
        """The outputs and their compute time in microseconds.

        Each prediction chooses a replica anew, so an explanation survives the end of one.
        """
        group, replica = self._reconciler.ready_replica(deployment)
        if group.digest != digest:
            raise Unavailable(
                f"deployment {deployment} changed during the explanation; try again",
                retry_after=1.0,
            )
        if replica.link is None or not replica.link.is_open:
            raise Unavailable(f"deployment {deployment} is restarting", retry_after=1.0)
        return await replica.link.predict_timed(
            group.template.signature, tensors, rows, deadline, Priority.LOW
        )


def _shapley_values(
    signature: Signature, row: RowToExplain, predict: PredictRows
) -> dict[str, Any]:
    # Imported with the first explanation: NumPy would add 0.2 s to every start of control.
    from maas.control.explanation.array_conversion import shapley_values  # noqa: PLC0415

    return shapley_values(signature, row, predict, BATCH_ROWS)


def _too_late(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        "the explanation was not finished within "
        f"{format_number(max(0.0, seconds), 's', digits=3)}; ask for fewer samples"
    )
