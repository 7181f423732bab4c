"""A load on a real gateway with a scripted replica: results agree with the counts of the server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maas.client.http.retry import RetryPolicy
from maas.client.http.transport import Endpoint
from maas.client.load_test.connection import Address, LoadConnection, StreamTimings
from maas.client.load_test.generator import Level, LoadRun, TextRequests
from maas.domain.errors import InferenceFailed, MaasError, NotFound, Overloaded, Unauthenticated
from maas.domain.generation import Generation
from maas.lifecycle.load_test.results import Load, LoadProgress
from tests.support.fakes.text_replica import TOKEN, Script, TextGateway, running_text_gateway, words


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[TextGateway]:
    with running_text_gateway(tmp_path) as running:
        yield running


def address(port: int, token: str = TOKEN) -> Address:
    return Address.of(Endpoint(f"http://127.0.0.1:{port}", token, 5.0, RetryPolicy(0)))


def run_of(
    port: int, load: Load, *levels: Level, name: str = "llm", token: str = TOKEN,
    progress: Any = None,
) -> LoadRun:  # fmt: skip
    at = address(port, token)
    return LoadRun(at, TextRequests(at, name, load), load, list(levels), progress)


def prompts(gateway: TextGateway) -> list[str]:
    return [str(g.prompt) for g in gateway.replica.generations]


def test_closed_loop_counts_what_the_server_counted(gateway: TextGateway) -> None:
    gateway.use(words("a", "b", "c", pause=0.01, prompt_tokens=12))
    load = Load(requests=6, output_tokens=3, prompt_tokens=12)
    run = run_of(gateway.port, load, Level(1), Level(3))
    asyncio.run(run.run())
    one, three = run.finished
    for level in (one, three):
        assert (level.requests, level.errors, level.output_tokens) == (6, {}, 3)
        assert level.prompt_tokens == 12
        assert level.ttft_ms is not None and level.ttft_ms.p50 >= 10
        assert level.tpot_ms is not None and 5 <= level.tpot_ms.p50 < 1000
    assert (one.concurrency, three.concurrency) == (1, 3)
    # One more than the load: the first request is cold, and not counted.
    assert len(gateway.replica.generations) == 13
    assert {g.max_tokens for g in gateway.replica.generations[1:]} == {3}
    assert {g.temperature for g in gateway.replica.generations} == {0}


def test_every_prompt_differs_and_a_second_run_sends_the_same(gateway: TextGateway) -> None:
    gateway.use(words("a", "b"))
    load = Load(requests=4, seed=5)
    for _ in range(2):
        asyncio.run(run_of(gateway.port, load, Level(2), Level(2)).run())
    sent = prompts(gateway)
    first, second = sent[:9], sent[9:]
    assert first[0] == second[0] and sorted(first) == sorted(second)
    assert len(set(first)) == 9
    # The replica reports that any prompt has 7 tokens, so prompts of 128 are made 18 times as long.
    assert len(first[1].split()) == round(128 * 128 / 7)


def test_same_prompt_sends_the_same(gateway: TextGateway) -> None:
    load = Load(requests=4, same_prompt=True, prompt_tokens=7)
    asyncio.run(run_of(gateway.port, load, Level(2)).run())
    assert len(set(prompts(gateway)[1:])) == 1


def test_failures_are_counted_and_not_measured(gateway: TextGateway) -> None:
    count = 0

    def script(_: Generation) -> Script:
        nonlocal count
        count += 1
        if count % 2 == 0:
            return Script([], error=Overloaded("full", retry_after=0.01))
        if count % 3 == 0:
            # Some text is there already: the error comes within the stream.
            return words("a", "b", error=InferenceFailed("no"))
        return words("a", "b")

    gateway.use(script)
    run = run_of(gateway.port, Load(requests=12), Level(1))
    asyncio.run(run.run())
    (level,) = run.finished
    assert level.requests == 4
    assert level.errors == {"inference_failed": 2, "overloaded": 6}


def test_an_error_of_the_first_request_is_raised(gateway: TextGateway) -> None:
    with pytest.raises(NotFound):
        asyncio.run(run_of(gateway.port, Load(), Level(1), name="nobody").run())
    with pytest.raises(Unauthenticated):
        asyncio.run(run_of(gateway.port, Load(), Level(1), token="maas_x_y").run())
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(MaasError, match="no connection"):
            asyncio.run(run_of(closed.getsockname()[1], Load(), Level(1)).run())


def test_open_loop_sends_whether_or_not_it_is_answered(gateway: TextGateway) -> None:
    most = 0

    def script(_: Generation) -> Script:
        nonlocal most
        most = max(most, len(gateway.replica.running))
        return words("a", "b", pause=0.2)

    gateway.use(script)
    run = run_of(gateway.port, Load(requests=20, rates=(100.0,)), Level(rate=100.0))
    asyncio.run(run.run())
    (level,) = run.finished
    assert (level.rate, level.requests, level.errors) == (100.0, 20, {})
    assert most > 5, "a closed loop of one would have one at a time"


def test_a_request_that_times_out_frees_its_slot(gateway: TextGateway) -> None:
    gateway.use(lambda g: words("a", pause=0.0) if g.max_tokens == 1 else words("a", pause=30.0))
    run = run_of(gateway.port, Load(requests=2, timeout_s=0.2), Level(2))
    asyncio.run(run.run())
    (level,) = run.finished
    assert (level.requests, level.errors) == (0, {"client_timeout": 2})
    done = threading.Event()
    for _ in range(100):
        if not gateway.replica.running:
            break
        done.wait(0.02)
    assert not gateway.replica.running


def test_a_cancelled_run_keeps_its_results(gateway: TextGateway) -> None:
    gateway.use(words("a", "b", pause=0.01))
    reports: list[LoadProgress] = []
    run = run_of(gateway.port, Load(seconds=60), Level(2), Level(4), progress=reports.append)

    async def main() -> None:
        task = asyncio.ensure_future(run.run())
        while not run._samples:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    (level,) = run.finished
    assert level.requests >= 1 and not level.complete
    assert reports[-1].figures is level and (reports[0].level, reports[0].levels) == (0, 2)


def test_an_incomplete_response_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in (
                b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
                b"no HTTP at all\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ndata: ",
            ):
                client, _ = listening.accept()
                client.recv(65536)
                client.sendall(answer)
                client.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()

        async def main() -> list[str]:
            at = address(listening.getsockname()[1])
            connection = LoadConnection(at)
            messages = []
            for _ in range(2):
                with pytest.raises(MaasError) as error:
                    await connection.send(at.post("/", b"{}"), lambda _: None)
                messages.append(error.value.message)
            written = StreamTimings()
            await connection.send(at.post("/", b"{}"), written.feed)
            with pytest.raises(MaasError, match="before the answer was complete"):
                written.check()
            connection.close()
            return messages

        first, second = asyncio.run(main())
        assert "broke" in first and "not HTTP" in second
        thread.join(5)


def test_events_may_be_split_anywhere() -> None:
    stream = (
        b'data: {"choices":[{"index":0,"text":"a"}],"usage":null}\n\n'
        b'data: {"choices":[{"index":0,"text":""}],"usage":null}\n\n'
        b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,'
        b'"prompt_tokens_details":{"cached_tokens":1}}}\n\ndata: [DONE]\n\n'
    )
    for size in (1, 7, 64, len(stream)):
        written = StreamTimings()
        for at in range(0, len(stream), size):
            written.feed(stream[at : at + size])
        written.check()
        assert written.usage is not None and written.usage.completion_tokens == 2
        assert 0 < written.first == written.last
    broken = StreamTimings()
    broken.feed(b"data: {]\n\n")
    with pytest.raises(MaasError, match="event"):
        broken.check()
