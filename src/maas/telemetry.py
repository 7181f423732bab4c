"""Logging as one JSON object per line, so that no client input can forge a log line."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

_TOKEN = re.compile(r"(maas_[0-9a-f]{6,24})_[A-Za-z0-9_-]{16,}")
"""An API key as `maas.domain.keys` generates it; the first group is its id, which is public."""

FIELDS = "fields"
"""Key in `extra` for a dict of further members of the line:
`log.info("started", extra={FIELDS: {"replica": "r-1a2b3c4d"}})`."""


class JsonLines(logging.Formatter):
    """Formatter for `time`, `level`, `process`, `logger`, `message`, `exception` and FIELDS."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= getattr(record, FIELDS, {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        # ASCII only: this escapes every control character and line separator except DEL.
        line = json.dumps(entry, ensure_ascii=True, default=str).replace("\x7f", "\\u007f")
        return _TOKEN.sub(r"\1_(hidden)", line)


def log_as_json(process: str, handler: logging.Handler | None = None) -> None:
    """Sends all logging of this process to `handler` (default: stderr) as JSON lines."""
    handler = handler or logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
