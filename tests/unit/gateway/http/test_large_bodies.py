"""The thread for large bodies: its limits and its shutdown."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maas.domain.errors import MaasError, Unavailable
from maas.gateway.http import large_bodies as large_bodies_module
from maas.gateway.http.large_bodies import LargeBodies
from maas.gateway.metering import Meter
from maas.processes import gateway as gateway_process
from maas.settings import ServerSettings, Settings
from tests.support.fakes.instant_target import occupy, until


def stub_request(body: bytes = b"") -> Any:
    server = SimpleNamespace(loop=asyncio.get_running_loop())
    return SimpleNamespace(connection=SimpleNamespace(server=server), body=body, on_disconnect=None)


def test_an_answer_is_encoded_at_once_if_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies_module, "WAITING_BYTES", 100)

    async def run() -> None:
        large = LargeBodies()
        free = occupy(large)
        written: list[str | MaasError] = []
        large.write(stub_request(), 60, lambda: "waits", written.append)
        large.write(stub_request(), 60, lambda: "at once", written.append)
        assert written == ["at once"]
        free.set()
        await large.close()
        assert large.waiting == 0

    asyncio.run(run())


def test_close_waits_for_the_work_in_progress_and_cancels_the_rest() -> None:
    async def run() -> None:
        large = LargeBodies()
        begun, free = threading.Event(), threading.Event()
        results: dict[str, str | MaasError] = {}

        def slow() -> str:
            begun.set()
            free.wait(5)
            return "done"

        large.write(stub_request(), 1, slow, lambda result: results.update(first=result))
        large.write(
            stub_request(), 1, lambda: "never", lambda result: results.update(second=result)
        )
        await until(begun.is_set)
        closing = asyncio.ensure_future(large.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        free.set()
        await closing
        assert results["first"] == "done" and isinstance(results["second"], Unavailable)
        large.write(stub_request(), 1, lambda: "late", lambda result: results.update(third=result))
        assert results["third"] == "late"

    asyncio.run(run())


def test_the_thread_ends_before_the_counters_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []
    large = LargeBodies()
    monkeypatch.setattr(gateway_process, "LargeBodies", lambda: large)
    close = Meter.close

    def closes(meter: Meter) -> None:
        ends.append("meter")
        close(meter)

    monkeypatch.setattr(Meter, "close", closes)
    settings = Settings(home=str(tmp_path), server=ServerSettings(drain_s=0))
    for folder in (settings.run_dir, settings.usage_dir):
        folder.mkdir()
    lifeline, end = os.pipe()
    os.close(end)

    async def run() -> None:
        free = occupy(large)
        large.write(stub_request(), 1, lambda: "", lambda _: ends.append("answer"))
        asyncio.get_running_loop().call_later(0.05, free.set)
        listening = socket.create_server(("127.0.0.1", 0))
        await gateway_process.serve(settings, listening, lifeline)

    asyncio.run(run())
    gc.unfreeze()
    os.close(lifeline)
    assert ends == ["answer", "meter"]
