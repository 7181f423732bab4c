"""Explain: asks a deployment's model many times, politely, through the ordinary predict path."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from maas.control.reconciliation.plans import ReplicaGroup
from maas.control.reconciliation.reconciler import Reconciler
from maas.domain.errors import DeadlineExceeded, Overloaded, Unavailable
from maas.domain.numbers import format_number
from maas.domain.signature import Signature
from maas.serving.wire.messages import Priority
from maas.serving.wire.tensors import Tensors

DEADLINE_S = 60.0
AT_ONCE = 3
"""The last place is for a key that has none, so that no key can take them all."""
RETRY_AFTER_S = 5.0
BATCH_ROWS = 32
"""Most rows per call: few enough that ordinary requests need not wait long behind one."""
DEFAULT_SAMPLES = 2048

Ask = Callable[[Tensors, int], Tensors]
"""From named tensors and their number of rows to the model's outputs; blocks."""
BackgroundOf = Callable[[str, int], dict[str, Any] | None]
"""From a model and a version to the rows that its publisher would compare with; blocks."""


@dataclass(frozen=True)
class RowToExplain:
    """What a caller wants explained: one row of one deployment."""

    inputs: dict[str, Any]
    output: str | None = None
    target: int | str | None = None
    samples: int = DEFAULT_SAMPLES
    seed: int = 0
    background: dict[str, Any] | None = None


@dataclass
class ExplanationCost:
    """What an explanation has asked its model."""

    rows: int = 0
    compute_us: int = 0
    """Their share of the model's run time."""


class Explainer:
    """At most a few explanations at once, each in a thread and within a deadline."""

    def __init__(self, reconciler: Reconciler, background_of: BackgroundOf) -> None:
        self._reconciler = reconciler
        self._background_of = background_of
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="explain")
        self._running: Counter[str] = Counter()
        """By key."""

    async def explain(
        self,
        deployment: str,
        question: RowToExplain,
        spent: ExplanationCost | None = None,
        until: float = math.inf,
        key: str = "",
    ) -> dict[str, Any]:
        """`Explanation.to_dict()` with what was asked; adds to `spent`. Ends after DEADLINE_S, or
        at `until` on the monotonic clock. `key` is the id of who asks. Raises MaasError."""
        spent = ExplanationCost() if spent is None else spent
        group, _ = self._reconciler.answering(deployment)
        self._check_places(key)
        self._running[key] += 1
        try:
            answer = await self._answered(deployment, group, question, spent, until)
        finally:
            self._running -= Counter([key])  # and forgets who has none
        return {
            "deployment": deployment,
            "model": group.template.model,
            "version": group.target.version,
            "variant": group.template.variant,
        } | answer

    async def _answered(
        self,
        deployment: str,
        group: ReplicaGroup,
        question: RowToExplain,
        spent: ExplanationCost,
        until: float,
    ) -> dict[str, Any]:
        if question.background is None:
            published = await asyncio.to_thread(
                self._background_of, group.template.model, group.target.version
            )
            question = replace(question, background=published)
        loop = asyncio.get_running_loop()
        began = time.monotonic()
        deadline = min(began + DEADLINE_S, until)

        def ask(tensors: Tensors, rows: int) -> Tensors:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise _too_late(deadline - began)
            call = self._predict(deployment, group.digest, tensors, rows, deadline)
            try:
                found, taken = asyncio.run_coroutine_threadsafe(call, loop).result(remaining + 2.0)
            except FutureTimeout:
                raise _too_late(deadline - began) from None
            spent.rows += rows
            spent.compute_us += taken
            return found

        return await loop.run_in_executor(
            self._threads, _explain, group.template.signature, question, ask
        )

    def _check_places(self, key: str) -> None:
        running = self._running.total()
        if running >= AT_ONCE:
            what = f"{AT_ONCE} explanations are running, which is the limit"
        elif self._running[key] and running == AT_ONCE - 1:
            what = f"{self._running[key]} explanations are running for this key, which is its share"
        else:
            return
        raise Overloaded(what, retry_after=RETRY_AFTER_S)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _predict(
        self, deployment: str, digest: str, tensors: Tensors, rows: int, deadline: float
    ) -> tuple[Tensors, int]:
        """Each call finds its replica anew, so that an explanation survives one that ends."""
        group, replica = self._reconciler.answering(deployment)
        if group.digest != digest:
            raise Unavailable(
                f"deployment {deployment} changed while it was explained; ask again",
                retry_after=1.0,
            )
        if replica.link is None or not replica.link.is_open:
            raise Unavailable(f"deployment {deployment} is restarting", retry_after=1.0)
        return await replica.link.predict_timed(
            group.template.signature, tensors, rows, deadline, Priority.LOW
        )


def _explain(signature: Signature, question: RowToExplain, ask: Ask) -> dict[str, Any]:
    # NumPy would cost every start of control 0.2 s; it comes with the first explanation.
    shapley = import_module("maas.control.explanation.shapley")
    answer: dict[str, Any] = shapley.shapley_values(signature, question, ask, BATCH_ROWS)
    return answer


def _too_late(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        "the explanation was not finished within "
        f"{format_number(max(0.0, seconds), 's', digits=3)}; ask for fewer samples"
    )
