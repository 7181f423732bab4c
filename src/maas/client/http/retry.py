"""Whether and when to send a request again. Pure: no clock, no sleep."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from maas.client.http.calls import ApiCall, ApiReply, retry_after

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True)
class RetryPolicy:
    """At most `retries` further attempts; none starts after the deadline."""

    retries: int

    def pause(
        self, call: ApiCall[Any], attempt: int, reply: ApiReply | None, remaining_s: float
    ) -> float | None:
        """Seconds to wait before attempt `attempt + 1`; None for no further attempt.

        `attempt` counts from 0. `reply` is None if the connection failed. A 503 is retried only
        if it has a `Retry-After`: without one the server does not invite a retry.
        """
        if not call.safe or attempt >= self.retries:
            return None
        backoff = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)
        if reply is not None:
            requested = retry_after(reply) if reply.status == 503 else None
            if requested is None:
                return None
            backoff = max(backoff, requested)
        pause = backoff * random.uniform(1.0, 1.5)
        return pause if pause < remaining_s else None
