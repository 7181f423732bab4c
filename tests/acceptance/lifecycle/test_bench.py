"""`maas bench` and `maas deploy --objective`: load tests, choice of the engine, and cleanup."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import maas
from maas.client.engine_choice import EngineChoiceOptions, choose_engine
from maas.domain.models import Variant
from maas.lifecycle.load_test.results import Load
from tests.support.models.onnx import echo_model
from tests.support.models.packaged import smollm2, text_model
from tests.support.servers.maas import Stack, running, wait_until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        client = stack.client()
        client.publish(echo_model(home / "echo.onnx"), name="echo", example=[1.0, 2.0])
        client.deploy("echo")
        stack.wait_ready("echo")
        yield stack


def command(stack: Stack, *arguments: str) -> tuple[list[str], dict[str, str]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    return [sys.executable, "-m", "maas.cli.main", *arguments], environment | {
        "MAAS_BASE_URL": stack.url, "MAAS_API_KEY": stack.token,
    }  # fmt: skip


def maas_cli(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    line, environment = command(stack, *arguments)
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=environment)


def names(stack: Stack) -> list[str]:
    return [d.name for d in stack.client().deployments.list()]


def test_a_load_test_of_rows_measures_and_draws(served: Stack, tmp_path: Path) -> None:
    picture = tmp_path / "echo.svg"
    before = sum(u["requests"] for u in served.client().usage())
    load = ("-c", "1", "-c", "4", "--requests", "50", "--report", str(picture))
    done = maas_cli(served, "bench", "echo", *load, "-o", "json")
    assert done.returncode == 0, done.stderr
    output: dict[str, Any] = json.loads(done.stdout)
    assert [level["concurrency"] for level in output["levels"]] == [1, 4]
    for level in output["levels"]:
        assert (level["requests"], level["errors"]) == (50, {})
        assert 0 < level["latency_ms"]["p50"] <= level["latency_ms"]["p99"]
        assert level["requests_per_s"] == pytest.approx(50 / level["seconds"])
        assert level["ttft_ms"] is None and level["tokens_per_s"] is None
    assert output["how"]["server"]["machine"]["cores"] >= 1
    assert "closed loop" in output["how"]["method"]
    ElementTree.fromstring(picture.read_text())

    def counted() -> bool:
        return bool(sum(u["requests"] for u in served.client().usage()) == before + 101)

    wait_until(counted, 15, "all requests are in the usage of the key")
    table = maas_cli(served, "bench", "echo", "--rate", "200", "--requests", "20")
    assert table.returncode == 0 and "rate 200/s" in table.stdout and "REQUESTS/S" in table.stdout


def test_an_invalid_load_test_is_refused_with_a_reason(served: Stack) -> None:
    missing = maas_cli(served, "bench", "nobody")
    assert missing.returncode == 3 and "nobody" in missing.stderr
    wrong = maas_cli(served, "bench", "echo", "-c", "0")
    assert wrong.returncode == 2 and "concurrency must be from 1 to 1024" in wrong.stderr
    assert maas_cli(served, "bench", "echo", "--report", "x.pdf").returncode == 2
    both = maas_cli(served, "deploy", "echo", "--objective", "latency", "--weight", "5")
    assert both.returncode == 2 and "--weight" in both.stderr
    size = maas_cli(served, "deploy", "echo", "--objective", "size")
    assert size.returncode == 2 and "latency, throughput" in size.stderr


def test_both_clients_run_load_tests(served: Stack) -> None:
    load = Load(concurrency=(2,), requests=10)
    blocking = served.client().bench("echo", load)

    async def main() -> Any:
        async with maas.AsyncClient(base_url=served.url, api_key=served.token) as client:
            # In a loop that runs already, as in a notebook, the blocking client works, too.
            assert served.client().bench("echo", load).levels[0].requests == 10
            return await client.bench("echo", load)

    awaited = asyncio.run(main())
    for result in (blocking, awaited):
        assert result.levels[0].requests == 10 and not result.interrupted
        assert result.targets == ("1/onnx",) and result.model == "echo:1"


def test_an_interrupt_prints_the_results_so_far(served: Stack) -> None:
    line, environment = command(served, "bench", "echo", "-c", "1", "-c", "2", "--seconds", "4",
                                "-o", "json")  # fmt: skip
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    if process.stderr is None:
        raise AssertionError
    assert process.stderr.readline().startswith("echo: concurrency 1: ")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    output = json.loads(out)
    assert output["interrupted"] is True and "interrupted:" not in out
    first, second = output["levels"]
    assert first["complete"] is True and first["seconds"] >= 3.9
    assert second["complete"] is False and second["requests"] > 0 and second["seconds"] < 3.9


def test_engines_are_measured_once_and_the_best_is_deployed(served: Stack) -> None:
    short = ("--objective", "throughput", "--measure-seconds", "0.3", "-o", "json")
    first = maas_cli(served, "deploy", "quick", "--model", "echo", *short)
    assert first.returncode == 0, first.stderr
    output = json.loads(first.stdout)
    tried = output["measured"]["candidates"]
    assert [t["measured_before"] for t in tried] == [False] * len(tried)
    choice = output["measured"]["kept"]
    rates = {t["threads"]: t["levels"][-1]["requests_per_s"] for t in tried}
    assert choice["threads"] == max(rates, key=lambda threads: rates[threads])
    assert output["scaling"]["threads"] == choice["threads"] and output["state"] == "ready"
    assert names(served) == ["echo", "quick"]
    evidence = [e for e in served.client().evidence("echo") if e.kind == "latency"]
    assert {e.values["threads"] for e in evidence} == set(rates)
    for item in evidence:
        assert item.variant == "onnx" and item.how["machine"]["cores"] >= 1
        assert item.how["seed"] == 0 and "onnxruntime" in item.how["library"]

    second = maas_cli(served, "deploy", "quick", *short)
    again = json.loads(second.stdout)
    assert [t["measured_before"] for t in again["measured"]["candidates"]] == [True] * len(tried)
    assert again["measured"]["kept"] == choice and again["revision"] == output["revision"]
    third = maas_cli(served, "deploy", "quick", *short, "--measure-again")
    anew = json.loads(third.stdout)["measured"]["candidates"]
    assert [t["measured_before"] for t in anew] == [False] * len(tried)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_choice_leaves_no_deployment(served: Stack, number: signal.Signals) -> None:
    before = names(served)
    line, environment = command(served, "deploy", "slow", "--model", "echo", "--objective",
                                "latency", "--measure-seconds", "300")  # fmt: skip
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    deployed = wait_until(lambda: set(names(served)) - set(before), 30, "it deploys one to measure")
    (temporary,) = deployed
    assert temporary.startswith("slow-try-")
    if number is signal.SIGTERM:
        served.wait_ready(temporary)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert names(served) == before


def test_text_is_measured_in_tokens_and_its_engines_compared(tmp_path_factory: Any) -> None:
    weights = smollm2()
    # One thread and a patient control: what is measured here is not how fast this machine is.
    patient = {"MAAS_SERVING__HANG_TIMEOUT_S": "60"}
    with running(tmp_path_factory.mktemp("h"), patient) as stack:
        client = stack.client()
        client.publish_prepared(text_model(weights, options={"context_length": 512}))
        load = Load(concurrency=(1, 2), requests=2, prompt_tokens=24, output_tokens=8)
        choice = choose_engine(
            client, EngineChoiceOptions("smollm2", "latency", "smollm2", threads=1, load=load)
        )
        assert names(stack) == []
        tried = {t.candidate.variant.runtime: t for t in choice.trials if not t.failed}
        assert tried and choice.best in choice.trials
        for trial in tried.values():
            for level in trial.levels:
                assert not level.errors and level.requests == 2
                assert level.output_tokens is not None and 1 <= level.output_tokens <= 8
                assert level.prompt_tokens == pytest.approx(24, abs=6)
                assert level.ttft_ms is not None and level.latency_ms is not None
                assert 0 < level.ttft_ms.p50 <= level.latency_ms.p50
        stored = [e for e in client.evidence("smollm2") if e.kind == "latency"]
        assert len(stored) == len(choice.trials)
        for trial in choice.trials:
            variant: Variant = trial.candidate.variant
            assert variant in client.models.version("smollm2").version.variants
        repeated = choose_engine(
            client, EngineChoiceOptions("smollm2", "throughput", "smollm2", threads=1, load=load)
        )
        assert all(t.is_known for t in repeated.trials if not t.failed)
