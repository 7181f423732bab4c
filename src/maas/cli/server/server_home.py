"""Whether the server of a home runs, and whether it answers."""

from __future__ import annotations

import fcntl
import http.client
import os
from urllib.parse import urlsplit

from maas.settings import Settings


def running_pid(settings: Settings) -> int | None:
    """The process id of the supervisor; None if no server runs for this home.

    The lock decides, not the pid file, which a killed server leaves behind. Returns 0 while the
    supervisor has not written its pid yet.
    """
    try:
        handle = os.open(settings.home_path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return int((settings.run_dir / "supervisor.pid").read_text())
        except (OSError, ValueError):
            return 0
    finally:
        os.close(handle)
    return None


def probe(base_url: str, path: str = "/readyz", timeout_s: float = 2.0) -> int | None:
    """The HTTP status of a GET without a key; None if there is no answer."""
    url = urlsplit(base_url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
