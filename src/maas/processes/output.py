"""Log output of a process: to the file of the `--log` argument, else to stderr."""

from __future__ import annotations

import argparse

from maas.settings import Settings
from maas.storage.log_files import LogFile, LogFolder, OutputToLogFile
from maas.telemetry import log_as_json


def log_folder(settings: Settings) -> LogFolder:
    return LogFolder(settings.log_dir, settings.logs.max_bytes, settings.logs.files)


def add_log_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log", nargs=3, metavar=("FILE", "BYTES", "FILES"))


def start_logging(process: str, log: list[str] | None) -> None:
    """Starts logging to `log`, the value of `--log`. Stdout and stderr go to that file, too."""
    handler = None
    if log is not None:
        handler = OutputToLogFile(LogFile.from_arguments(log))
        handler.watch()
    log_as_json(process, handler)
