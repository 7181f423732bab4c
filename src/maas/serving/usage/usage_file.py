"""Usage counters of one gateway process, in a file that control reads into the ledger.

Totals only grow, and belong to one gateway process. The ledger therefore stores them without
adding: reading a file twice, or a crash at any point, counts nothing twice.
"""

from __future__ import annotations

import time
from pathlib import Path

from maas.domain.usage import Usage
from maas.serving.usage.counter_file import CounterFile, read_counters

_SEPARATOR = "\t"
REQUESTS, ROWS, ERRORS, COMPUTE_US, PROMPT_TOKENS, COMPLETION_TOKENS = range(6)
WIDTH = 6


class UsageFile:
    """Counts the usage of a gateway process per key, deployment, operation and day."""

    def __init__(self, directory: Path, source: str) -> None:
        """`source` identifies the process and must never be reused."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = CounterFile(directory / f"{source}.usage", source, WIDTH)
        self._day = ""
        self._day_ends = 0.0
        self._today: dict[tuple[str, str, str], memoryview] = {}

    def slot(self, key_id: str, deployment: str, operation: str) -> memoryview:
        """Today's counters (UTC), with REQUESTS and the other constants as indices."""
        now = time.time()
        if now >= self._day_ends:
            self._day = time.strftime("%Y-%m-%d", time.gmtime(now))
            self._day_ends = (now // 86400 + 1) * 86400
            self._today.clear()
        place = (key_id, deployment, operation)
        slot = self._today.get(place)
        if slot is None:
            label = _SEPARATOR.join((*place, self._day))
            slot = self._today[place] = self._file.slot(label)
        return slot

    def close(self) -> None:
        self._today.clear()
        self._file.close()

    @staticmethod
    def read(path: Path) -> tuple[str, list[Usage], bool]:
        """The source, the totals, and whether the gateway process still runs.

        Raises ValueError if the file is not a counter file.
        """
        source, totals, alive = read_counters(path)
        usages = []
        for label, counters in totals.items():
            # The file of an older version may have fewer counters.
            counters += (0,) * (WIDTH - len(counters))
            parts = label.split(_SEPARATOR)
            key_id, deployment, operation, day = parts if len(parts) == 4 else ("", "", "", "")
            usages.append(
                Usage(
                    key_id=key_id,
                    deployment=deployment,
                    operation=operation,
                    day=day,
                    requests=counters[REQUESTS],
                    rows=counters[ROWS],
                    errors=counters[ERRORS],
                    compute_us=counters[COMPUTE_US],
                    prompt_tokens=counters[PROMPT_TOKENS],
                    completion_tokens=counters[COMPLETION_TOKENS],
                )
            )
        return source, usages, alive
