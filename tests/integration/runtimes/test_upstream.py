"""External engines with OpenAI's API, tested with llama.cpp's server and SmolLM2."""

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
from tests.support.engine_contract import Answer, chat, complete, load_request
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


def request(file: Path, engine: str = "local", **options: Any) -> LoadRequest:
    return replace(load_request(smollm2(), engine=engine, **options), engines_file=file)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    loaded = Upstream()
    loaded.load(request(engines_file(tmp_path_factory.mktemp("e"), local=local())))
    yield loaded
    loaded.close()
    assert engine_pids() == []


def engine_pids() -> list[int]:
    mine = psutil.Process().children(recursive=True)
    return [child.pid for child in mine if child.cmdline()[1:2] == [str(PROGRAM)]]


def test_it_answers_and_counts(model: Upstream) -> None:
    text, ending = complete(model, chat(FRANCE, temperature=0, max_tokens=16))
    assert "Paris" in text and ending.reason == "stop"
    assert ending.prompt_tokens == 42 and 0 < ending.completion_tokens <= 16
    text, ending = complete(model, Generation(prompt="1, 2, 3, 4,", temperature=0, max_tokens=3))
    assert ending.completion_tokens == 3 and "5" in text and ending.reason == "length"
    text, ending = complete(model, chat("Hello", max_tokens=0))
    assert (text, ending.completion_tokens, ending.prompt_tokens > 20) == ("", 0, True)


def test_seed_stop_schema_and_logprobs_are_passed_on(model: Upstream) -> None:
    story = chat("Tell a story.", temperature=1, seed=7, max_tokens=12)
    assert complete(model, story)[0] == complete(model, story)[0]
    counting = Generation(prompt="1, 2, 3, 4, 5,", temperature=0, max_tokens=40, stop=[" 8"])
    text, ending = complete(model, counting)
    assert ending.reason == "stop" and text.rstrip().endswith("7,")
    yes = {"type": "json_schema", "schema": {"enum": ["yes", "no"]}}
    assert complete(model, chat("Yes?", max_tokens=9, response_format=yes))[0] in ('"yes"', '"no"')
    likely = Answer(model, chat("Hi", temperature=0, max_tokens=3, logprobs=2))
    likely.end()
    assert [len(entry.top) for entry in likely.logprobs] == [2, 2, 2]


def test_requests_that_the_engine_refuses_are_refused(model: Upstream) -> None:
    with pytest.raises(ContextLengthExceeded):
        complete(model, chat("word " * 3000, max_tokens=1))
    with pytest.raises(InvalidInput):
        complete(model, chat("Hi", response_format={"type": "json_schema", "schema": {"type": 5}}))
    assert complete(model, chat("Hi", max_tokens=2))[1].completion_tokens == 2


def test_cancelling_closes_the_connection_so_that_the_engine_stops(model: Upstream) -> None:
    running = [Answer(model, chat("Write on.", **ENDLESS)).first() for _ in range(3)]
    for answer in running:
        model.cancel(answer.number)
    for answer in running:
        ending = answer.end()
        assert ending.reason == "cancelled" and ending.prompt_tokens > 0
        assert ending.completion_tokens == answer.tokens > 0


def test_the_key_is_not_visible_to_other_users(model: Upstream) -> None:
    (pid,) = engine_pids()
    process = model._process
    assert process is not None
    assert process.key not in " ".join(psutil.Process(pid).cmdline())
    ports = [c.laddr for c in psutil.Process(pid).net_connections() if c.status == "LISTEN"]
    assert {address.ip for address in ports} == {"127.0.0.1"}


def test_a_url_with_a_key_file_is_an_engine_as_well(model: Upstream, tmp_path: Path) -> None:
    process = model._process
    assert process is not None
    (tmp_path / "key").write_text(process.key + "\n")
    (tmp_path / "wrong").write_text("guess")
    table = {"url": process.url, "key_file": str(tmp_path / "key")}
    file = engines_file(tmp_path, far=table, bad=table | {"key_file": str(tmp_path / "wrong")})
    far = Upstream()
    far.load(request(file, "far"))
    assert complete(far, chat("Hi", max_tokens=2))[1].completion_tokens == 2
    with pytest.raises(InvalidInput, match="not configured to enforce"):
        complete(far, chat("Hi", response_format={"type": "json_object"}))
    far.close()
    with pytest.raises(InvalidInput, match="401"):
        Upstream().load(request(file, "bad"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "either url or command"),
        ({"url": "file:///etc/passwd"}, "must be http"),
        ({"url": "http://127.0.0.1:9/v1"}, "does not answer"),
        ({"command": ["vllm"]}, "absolute path"),
        ({"command": ["/bin/false"]}, "exited before"),
        ({"url": "http://127.0.0.1:9/v1", "ulr": "x"}, "unknown field"),
    ],
)
def test_an_unusable_engine_is_refused_with_the_reason(
    tmp_path: Path, table: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        Upstream().load(request(engines_file(tmp_path, odd=table), "odd"))


def test_only_engines_of_the_operators_file_can_be_used(tmp_path: Path) -> None:
    file = engines_file(tmp_path, one={"url": "http://127.0.0.1:9/v1"})
    for name in ("two", "http://127.0.0.1:9/v1", 3, None):
        with pytest.raises(InvalidInput, match="must name an engine"):
            Upstream().load(replace(request(file), options={"engine": name}))
    with pytest.raises(InvalidInput, match="no option 'url'"):
        Upstream().load(request(file, "one", url="http://127.0.0.1:1"))
    with pytest.raises(InvalidInput, match="engines_file"):
        Upstream().load(replace(request(file), engines_file=None))


def test_an_engine_exits_with_the_process_that_started_it(tmp_path: Path) -> None:
    """Also if that process is killed without a chance to clean up."""
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
        engines = []
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if line[-1:] == [marker] and "maas.runtimes.upstream.process" not in " ".join(line):
                engines.append(process)
        return engines

    until = time.monotonic() + 20
    while not engines() and time.monotonic() < until:
        time.sleep(0.05)
    (engine,) = engines()
    owner.kill()
    owner.wait()
    engine.wait(20)
    owner.stdout.close()


def test_a_guard_kills_an_engine_that_ignores_sigterm(tmp_path: Path) -> None:
    from maas.runtimes.upstream.config import Engine

    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    process = EngineProcess(Engine(command=[sys.executable, "-c", stubborn]), {})
    assert process.is_running
    process.close()
    assert not process.is_running


def test_an_engines_last_output_is_copied_before_it_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from maas.runtimes.upstream import process as process_module
    from maas.runtimes.upstream.config import Engine

    copies: list[bytes] = []

    def slow(output: IO[bytes]) -> None:
        with output:
            data = output.read()  # the engine has exited
            time.sleep(0.3)
            copies.append(data)

    monkeypatch.setattr(process_module, "_copy_to_log", slow)
    process = EngineProcess(Engine(command=[sys.executable, "-c", "print('last words')"]), {})
    process.wait()
    process.close()
    assert copies == [b"last words\n"]


def test_an_engines_output_follows_the_log_into_new_files(tmp_path: Path) -> None:
    """It waits each time until the replica has begun a new file, and then prints more."""
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
    words = (log_tail(log.path, 10, 1 << 20) or b"").decode().split()
    assert [word for word in words if "x" not in word] == ["1", "2", "3", "end"]
