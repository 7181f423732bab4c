"""Engines of others behind OpenAI's API, with a real one: llama.cpp's server with SmolLM2."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from maas.domain.errors import ContextLengthExceeded, InvalidInput
from maas.domain.generation import Generation
from maas.runtimes.base import LoadRequest
from maas.runtimes.upstream.process import EngineProcess
from maas.runtimes.upstream.runtime import Upstream
from maas.storage.log_files import LogFile, log_tail
from tests.support.engine_contract import Answer, chat, load_request, written
from tests.support.models.packaged import smollm2

PROGRAM = Path(__file__).parents[2] / "support" / "servers" / "openai_engine.py"
ENDLESS = {"logit_bias": {0: -100.0, 2: -100.0}, "temperature": 0.0}
FRANCE = "What is the capital of France? Answer with one word."


def engines_file(directory: Path, **tables: dict[str, Any]) -> Path:
    path = directory / "engines.toml"
    lines: list[str] = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    path.write_text("\n".join(lines))
    return path


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value)


def local() -> dict[str, Any]:
    return {
        "command": [sys.executable, str(PROGRAM), "{model}", "{port}"],
        "environment": {"ENGINE_KEY": "{key}"},
        "context_length": 512,
        "json_schema": True,
        "extra_body": {"timings_per_token": True},
    }


def asked(file: Path, engine: str = "local", **options: Any) -> LoadRequest:
    return replace(load_request(smollm2(), engine=engine, **options), engines_file=file)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    loaded = Upstream()
    loaded.load(asked(engines_file(tmp_path_factory.mktemp("e"), local=local())))
    yield loaded
    loaded.close()
    assert engine_pids() == []


def engine_pids() -> list[int]:
    mine = psutil.Process().children(recursive=True)
    return [child.pid for child in mine if child.cmdline()[1:2] == [str(PROGRAM)]]


def test_it_answers_and_counts(model: Upstream) -> None:
    text, ending = written(model, chat(FRANCE, temperature=0, max_tokens=16))
    assert "Paris" in text and ending.reason == "stop"
    assert ending.prompt_tokens == 42 and 0 < ending.completion_tokens <= 16
    text, ending = written(model, Generation(prompt="1, 2, 3, 4,", temperature=0, max_tokens=3))
    assert ending.completion_tokens == 3 and "5" in text and ending.reason == "length"
    text, ending = written(model, chat("Hello", max_tokens=0))
    assert (text, ending.completion_tokens, ending.prompt_tokens > 20) == ("", 0, True)


def test_seed_stop_schema_and_logprobs_go_through(model: Upstream) -> None:
    story = chat("Tell a story.", temperature=1, seed=7, max_tokens=12)
    assert written(model, story)[0] == written(model, story)[0]
    counting = Generation(prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=40, stop=[" 8"])
    text, ending = written(model, counting)
    assert ending.reason == "stop" and text.rstrip().endswith("7,")
    yes = {"type": "json_schema", "schema": {"enum": ["yes", "no"]}}
    assert written(model, chat("Yes?", max_tokens=9, response_format=yes))[0] in ('"yes"', '"no"')
    likely = Answer(model, chat("Hi", temperature=0, max_tokens=3, logprobs=2))
    likely.end()
    assert [len(entry.top) for entry in likely.logprobs] == [2, 2, 2]


def test_what_the_engine_refuses_is_refused_here(model: Upstream) -> None:
    with pytest.raises(ContextLengthExceeded):
        written(model, chat("word " * 3000, max_tokens=1))
    with pytest.raises(InvalidInput):
        written(model, chat("Hi", response_format={"type": "json_schema", "schema": {"type": 5}}))
    assert written(model, chat("Hi", max_tokens=2))[1].completion_tokens == 2


def test_cancelling_closes_the_connection_and_the_engine_stops(model: Upstream) -> None:
    running = [Answer(model, chat("Write on.", **ENDLESS)).first() for _ in range(3)]
    for answer in running:
        model.cancel(answer.number)
    for answer in running:
        ending = answer.end()
        assert ending.reason == "cancelled" and ending.prompt_tokens > 0
        assert ending.completion_tokens == answer.tokens > 0


def test_nobody_without_the_key_may_ask_and_others_do_not_see_it(model: Upstream) -> None:
    (pid,) = engine_pids()
    process = model._process
    assert process is not None
    assert process.key not in " ".join(psutil.Process(pid).cmdline())
    ports = [c.laddr for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
    assert {address.ip for address in ports} == {"127.0.0.1"}


def test_a_url_with_a_key_file_is_asked_as_well(model: Upstream, tmp_path: Path) -> None:
    process = model._process
    assert process is not None
    (tmp_path / "key").write_text(process.key + "\n")
    (tmp_path / "wrong").write_text("guess")
    table = {"url": process.url, "key_file": str(tmp_path / "key")}
    file = engines_file(tmp_path, far=table, bad=table | {"key_file": str(tmp_path / "wrong")})
    far = Upstream()
    far.load(asked(file, "far"))
    assert written(far, chat("Hi", max_tokens=2))[1].completion_tokens == 2
    with pytest.raises(InvalidInput, match="not known to hold"):
        written(far, chat("Hi", response_format={"type": "json_object"}))
    far.close()
    with pytest.raises(InvalidInput, match="401"):
        Upstream().load(asked(file, "bad"))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, "either url or command"),
        ({"url": "file:///etc/passwd"}, "must be http"),
        ({"url": "http://127.0.0.1:9/v1"}, "does not answer"),
        ({"command": ["vllm"]}, "absolute path"),
        ({"command": ["/bin/false"]}, "ended before"),
        ({"url": "http://127.0.0.1:9/v1", "ulr": "x"}, "unknown field"),
    ],
)
def test_an_engine_that_cannot_be_says_why(
    tmp_path: Path, table: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidInput, match=says):
        Upstream().load(asked(engines_file(tmp_path, odd=table), "odd"))


def test_only_engines_of_the_operators_file_can_be_named(tmp_path: Path) -> None:
    file = engines_file(tmp_path, one={"url": "http://127.0.0.1:9/v1"})
    for name in ("two", "http://127.0.0.1:9/v1", 3, None):
        with pytest.raises(InvalidInput, match="must name an engine"):
            Upstream().load(replace(asked(file), options={"engine": name}))
    with pytest.raises(InvalidInput, match="no option 'url'"):
        Upstream().load(asked(file, "one", url="http://127.0.0.1:1"))
    with pytest.raises(InvalidInput, match="engines_file"):
        Upstream().load(replace(asked(file), engines_file=None))


def test_an_engine_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """A process that starts one and is killed with no chance to clean up."""
    marker = f"{time.time_ns()}"
    code = (
        "import sys, time; from maas.runtimes.upstream.process import EngineProcess;"
        "from maas.runtimes.upstream.config import Engine;"
        f"p = EngineProcess(Engine(command=[sys.executable, '-c', 'import time; time.sleep(600)', "
        f"'{marker}']), {{}}); print(p.url, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    if owner.stdout is None or not owner.stdout.readline():
        raise AssertionError("it did not start")

    def engines() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if line[-1:] == [marker] and "maas.runtimes.upstream.process" not in " ".join(line):
                found.append(process)
        return found

    until = time.monotonic() + 20
    while not engines() and time.monotonic() < until:
        time.sleep(0.05)
    (engine,) = engines()
    owner.kill()
    owner.wait()
    engine.wait(20)
    owner.stdout.close()


def test_a_guard_ends_an_engine_that_does_not_listen(tmp_path: Path) -> None:
    from maas.runtimes.upstream.config import Engine

    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    process = EngineProcess(Engine(command=[sys.executable, "-c", stubborn]), {})
    assert process.is_running
    process.close()
    assert not process.is_running


def test_an_engines_last_words_are_passed_on_before_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from maas.runtimes.upstream import process as process_module
    from maas.runtimes.upstream.config import Engine

    heard: list[bytes] = []

    def slow(said: IO[bytes]) -> None:
        with said:
            words = said.read()  # the engine has ended
            time.sleep(0.3)
            heard.append(words)

    monkeypatch.setattr(process_module, "_pass_on", slow)
    process = EngineProcess(Engine(command=[sys.executable, "-c", "print('last words')"]), {})
    process.wait()
    process.close()
    assert heard == [b"last words\n"]


def test_what_an_engine_prints_follows_the_log_into_new_files(tmp_path: Path) -> None:
    """It waits each time until its owner has begun a new file, and then prints on."""
    log = LogFile(tmp_path / "r-1.log", 1000, 10)
    engine = (
        "import pathlib, sys, time; log = pathlib.Path(sys.argv[1])\n"
        "for n in range(1, 4):\n"
        "    print(n, 'x' * 1200, flush=True)\n"
        "    while not log.with_name(f'{log.name}.{n}').exists(): time.sleep(0.01)\n"
        "print('end', flush=True)"
    )
    owner = (
        "import sys; from maas.storage import log_files; log_files.CHECK_EVERY_S = 0.01\n"
        "log_files.OutputToLogFile(log_files.LogFile.from_arguments(sys.argv[3:])).watch()\n"
        "from maas.runtimes.upstream.process import EngineProcess\n"
        "from maas.runtimes.upstream.config import Engine\n"
        "p = EngineProcess(Engine(command=[sys.executable, '-c', sys.argv[1], sys.argv[3]]), {})\n"
        "p.wait(); p.close()"
    )
    command = [sys.executable, "-c", owner, engine, *log.arguments()]
    assert subprocess.run(command, timeout=40).returncode == 0
    said = (log_tail(log.path, 10, 1 << 20) or b"").decode().split()
    assert [word for word in said if "x" not in word] == ["1", "2", "3", "end"]
