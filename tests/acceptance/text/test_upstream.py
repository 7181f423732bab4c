"""External engines as deployments: a process that the replica starts, and a server at a URL."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from maas.domain.models import Manifest, Task, Variant
from maas.lifecycle.prepared_publication import PreparedPublication
from tests.support.fakes.generations import TEXT_TO_TEXT
from tests.support.models.packaged import smollm2, text_model
from tests.support.servers.maas import STREAM_ENDED_S, Stack, free_port, running, wait_until

PROGRAM = Path(__file__).parents[2] / "support" / "servers" / "openai_engine.py"
KEY = "the-engine's-own-key"
FRANCE = [{"role": "user", "content": "What is the capital of France? Answer with one word."}]
STORY = [{"role": "user", "content": "Tell a long story."}]
ENDLESS = {"logit_bias": {"0": -100, "2": -100}}


class Engine:
    """An external server at a URL."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, str(PROGRAM), str(smollm2()), str(self.port)]
        self.process = subprocess.Popen(
            command, env={**os.environ, "ENGINE_KEY": KEY}, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, 60, "the engine answers")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"})
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    started = Engine()
    started.start()
    yield started
    started.kill()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Iterator[Stack]:
    """A server with the deployments `managed` and `far`."""
    home = tmp_path_factory.mktemp("h")
    (home / "engine.key").write_text(KEY)
    engines = home / "engines.toml"
    engines.write_text(
        f"[local]\ncommand = [{json.dumps(sys.executable)}, {json.dumps(str(PROGRAM))}, "
        '"{model}", "{port}"]\nenvironment = { ENGINE_KEY = "{key}" }\njson_schema = true\n'
        f'[far]\nurl = "http://127.0.0.1:{engine.port}/v1"\n'
        f"key_file = {json.dumps(str(home / 'engine.key'))}\n"
    )
    with running(home, {"MAAS_SERVING__ENGINES_FILE": str(engines)}) as stack:
        client = stack.client()
        weights = text_model(smollm2()).manifest.variants[0].files
        for name, table, files in (("managed", "local", weights), ("far", "far", ())):
            options: dict[str, Any] = {"engine": table, "context_length": 512}
            variant = Variant("engine", "upstream", files, options)
            manifest = Manifest(name, Task.TEXT_GENERATION, TEXT_TO_TEXT, (variant,))
            sources = tuple((smollm2(), file) for file in files)
            client.publish_prepared(PreparedPublication(manifest, sources, ()))
            client.deploy(name, wait_s=0)
        for name in ("managed", "far"):
            stack.wait_ready(name)
        yield stack


class Stream:
    """A streamed chat, read event by event."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)
        request = {"model": name, "messages": STORY, "stream": True, "max_tokens": 400, **ENDLESS}
        headers = {"Authorization": f"Bearer {stack.token}", "Content-Type": "application/json"}
        self.connection.request("POST", "/v1/chat/completions", json.dumps(request), headers)
        self.answer = self.connection.getresponse()

    def event(self) -> str:
        """The data of the next event, empty at the end."""
        while line := self.answer.readline():
            if line.startswith(b"data:"):
                return line[5:].strip().decode()
        return ""

    def last(self) -> str:
        data = ""
        while event := self.event():
            data = event
        self.connection.close()
        return data


def capital(stack: Stack, name: str) -> str:
    request = {"model": name, "messages": FRANCE, "temperature": 0, "max_tokens": 8}
    status, _, answer = stack.request("POST", "/v1/chat/completions", request)
    assert status == 200, answer
    completion = json.loads(answer)
    assert completion["usage"]["prompt_tokens"] == 42 and completion["model"] == name
    return str(completion["choices"][0]["message"]["content"])


@pytest.mark.parametrize("name", ["managed", "far"])
def test_an_external_engine_chats_streams_predicts_and_is_metered(served: Stack, name: str) -> None:
    assert "Paris" in capital(served, name)
    client = served.client()
    assert "Paris" in client.predict(name, prompt=FRANCE[0]["content"])["text"]
    with client.chat(name, FRANCE, stream=True, temperature=0, max_tokens=8) as stream:
        assert "Paris" in "".join(stream)
    assert stream.answer.prompt_tokens == 42

    def used() -> int:
        return sum(u["prompt_tokens"] for u in client.usage(deployment=name))

    wait_until(lambda: used() == 3 * 42, 30, "every token is in the ledger")


def engine_of(stack: Stack) -> psutil.Process | None:
    """The process that the replica of `managed` started; None if it is not running."""
    with contextlib.suppress(psutil.Error):
        for replica in stack.replica_pids("managed"):
            for process in psutil.Process(replica).children(recursive=True):
                if process.cmdline()[1:2] == [str(PROGRAM)]:
                    return process
    return None


def test_a_killed_managed_engine_ends_its_streams_and_is_restarted(served: Stack) -> None:
    stream = Stream(served, "managed")
    for _ in range(4):
        stream.event()
    victim = engine_of(served)
    assert victim is not None
    victim.kill()
    killed = time.monotonic()
    assert "error" in json.loads(stream.last())
    assert time.monotonic() - killed <= STREAM_ENDED_S
    wait_until(lambda: engine_of(served) not in (None, victim), 60, "another engine")
    served.wait_ready("managed")
    assert "Paris" in capital(served, "managed")
    assert "Paris" in capital(served, "far")


def test_a_server_at_a_url_may_stop_and_restart(served: Stack, engine: Engine) -> None:
    stream = Stream(served, "far")
    for _ in range(4):
        stream.event()
    engine.kill()
    assert "error" in json.loads(stream.last())
    request = {"model": "far", "messages": FRANCE, "max_tokens": 2}
    status, headers, answer = served.request("POST", "/v1/chat/completions", request)
    assert status == 503 and "cannot be reached" in json.loads(answer)["error"]["message"]
    assert int(headers["retry-after"]) >= 1
    engine.start()
    wait_until(lambda: served.request("POST", "/v1/chat/completions", request)[0] == 200, 30)
    assert "Paris" in capital(served, "far")


def test_an_engine_exits_when_its_deployment_is_deleted(served: Stack) -> None:
    process = engine_of(served)
    assert process is not None
    served.client().deployments.delete("managed")
    wait_until(lambda: not process.is_running(), 30, "the engine has exited")
