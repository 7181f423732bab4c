"""When a request is sent again, and after how long. Pure: no clock, no sleep."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from maas.client.http.calls import ApiCall, ApiReply, retry_after

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True)
class RetryPolicy:
    """At most `retries` further attempts, none of which would start after the time is up."""

    retries: int

    def pause(
        self, call: ApiCall[Any], attempt: int, reply: ApiReply | None, remaining_s: float
    ) -> float | None:
        """Seconds to wait before attempt `attempt + 1`; None: do not try again.

        `attempt` counts from 0. `reply` is None if the connection failed. A 503 is retried only
        if it says when (`Retry-After`): without it the server does not ask to be asked again.
        """
        if not call.safe or attempt >= self.retries:
            return None
        backoff = min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)
        if reply is not None:
            asked = retry_after(reply) if reply.status == 503 else None
            if asked is None:
                return None
            backoff = max(backoff, asked)
        pause = backoff * random.uniform(1.0, 1.5)
        return pause if pause < remaining_s else None
