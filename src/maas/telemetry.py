"""Logs: one JSON object per line, so that nothing a client sends can forge a line."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

_TOKEN = re.compile(r"(maas_[0-9a-f]{6,24})_[A-Za-z0-9_-]{16,}")
"""A key as `maas.domain.keys` makes it; the first part is its id, which may be known."""

FIELDS = "fields"
"""`log.info("started", extra={FIELDS: {"replica": "r-1a2b3c4d"}})` adds keys to the line."""


class JsonLines(logging.Formatter):
    """`time`, `level`, `process`, `logger`, `message`, `exception` and the record's own fields."""

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
        # ASCII only: every control character and line separator is escaped, but for DEL.
        line = json.dumps(entry, ensure_ascii=True, default=str).replace("\x7f", "\\u007f")
        return _TOKEN.sub(r"\1_(hidden)", line)


def log_as_json(process: str, handler: logging.Handler | None = None) -> None:
    """All logging of this process goes to `handler` (default: stderr), a JSON object per line."""
    handler = handler or logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
