"""A headless Chromium, driven over its debugging pipe."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--disable-extensions", "--remote-debugging-pipe",
)  # fmt: skip

LAUNCHER = """
import fcntl, os, sys
out, back = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(out, 3)
os.dup2(back, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads from descriptor 3 and writes to 4."""


def executable() -> str | None:
    """The path of a Chromium, or None."""
    paths = (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome"))
    return next((path for path in paths if path), None)


class Page:
    """One tab. Every method waits for the browser's answer."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out = to_browser
        self._in = from_browser
        self._rest = b""
        self._number = 0
        self._session = ""
        self.errors: list[str] = []
        """Uncaught errors, console errors and violations of the content security policy."""
        self.dialogs: list[str] = []
        """Texts of dialogs, such as `alert`; they are dismissed."""
        self.requests: list[str] = []
        self._target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 20
        while time.monotonic() < end:
            answer = self._read(end - time.monotonic())
            if answer is not None and answer.get("id") == self._number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return answer["result"]
        raise AssertionError(f"no answer to {method}")

    def _read(self, seconds: float) -> dict[str, Any] | None:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], max(0.0, seconds))[0]:
                return None
            data = os.read(self._in, 1 << 16)
            if not data:
                raise AssertionError("the browser exited")
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", str(details)))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(params["message"])
            self._number += 1
            message = {"id": self._number, "method": "Page.handleJavaScriptDialog",
                       "params": {"accept": False}, "sessionId": self._session}  # fmt: skip
            os.write(self._out, json.dumps(message).encode() + b"\0")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    # -- for tests -------------------------------------------------------------------------

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        result = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in result:
            raise AssertionError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def js_in_frame(self, expression: str) -> Any:
        """Like `js`, in the page's sandboxed frame, which is a target of its own; None before it
        exists. Its errors are recorded with those of the page."""
        targets = self.send("Target.getTargets")["targetInfos"]
        # The browser has another tab of its own, which may have a frame, too.
        ours = [t for t in targets if t["type"] == "iframe" and t.get("parentId") == self._target]
        if not ours:
            return None
        frame = ours[0]["targetId"]
        attached = self.send("Target.attachToTarget", targetId=frame, flatten=True)
        session, self._session = self._session, attached["sessionId"]
        try:
            self.send("Log.enable")
            return self.js(expression)
        finally:
            self._session = session

    def forget(self) -> None:
        """Clear what was recorded so far."""
        self.js("1")
        for records in (self.errors, self.dialogs, self.requests):
            records.clear()

    def wait(self, expression: str, seconds: float = 10.0) -> None:
        """Wait until `expression` is true in the page."""
        end = time.monotonic() + seconds
        while not self.js(
            f"(() => {{ try {{ return !!({expression}) }} catch {{ return 0 }} }})()"
        ):
            if time.monotonic() > end:
                text = self.js("document.body.innerText")
                raise AssertionError(f"timed out: {expression}\n{text}\n{self.errors}")
            time.sleep(0.03)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        """A PNG of the whole page."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def page(program: str) -> Iterator[Page]:
    """Start a browser with a fresh profile; exits with the context."""
    read_here, write_there = os.pipe()
    read_there, write_here = os.pipe()
    profile = tempfile.mkdtemp(prefix="maas-browser-")
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(read_there), str(write_there),
         program, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(read_there, write_there),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    os.close(read_there)
    os.close(write_there)
    try:
        yield Page(write_here, read_here)
    finally:
        os.close(write_here)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(read_here)
        shutil.rmtree(profile, ignore_errors=True)
