"""Desired state becomes processes: start, update, crash, hang, adoption, end."""

from __future__ import annotations

import os
import signal
import time

import psutil

from .conftest import Home, eventually, kill, pids, tiny_onnx


def test_publish_deploy_predict(control: Home) -> None:
    control.publish("triple", tiny_onnx(3))
    started = time.monotonic()
    control.deploy("t", model="triple")
    view = control.wait_for("t", "ready")
    print("ready after", time.monotonic() - started)
    assert (view["ready"], view["desired"], view["default"]) == (1, 1, True)
    assert control.predict("t", [1, 2, 3]) == [3, 6, 9]
    assert control.snapshot().default == "t"
