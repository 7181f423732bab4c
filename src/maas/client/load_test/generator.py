"""Load generation: closed loop at fixed concurrency, or open loop at fixed rates."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from maas.client.http.calls import encode
from maas.client.load_test.connection import Address, LoadConnection, StreamTimings
from maas.domain.errors import MaasError
from maas.lifecycle.load_test.prompts import prompt, words_for
from maas.lifecycle.load_test.results import (
    MOST_AT_ONCE,
    MOST_SAMPLES,
    LevelResult,
    Load,
    LoadProgress,
    RequestSample,
)
from maas.lifecycle.load_test.statistics import NOT_SENT, figures

LoadProgressCallback = Callable[[LoadProgress], None]
REPORT_EVERY_S = 0.25
LONGEST_PAUSE_S = 1.0
"""Longest pause after a refused request; without one, refusals would be measured."""
USUAL_PAUSE_S = 0.05
CLIENT_TIMEOUT = "client_timeout"


class LoadRequests(Protocol):
    """Sends the requests of a load and measures each."""

    generates_text: bool
    """Whether the answers are streams of text."""

    async def warm_up(self, connection: LoadConnection) -> None:
        """Send one request that is not measured. Raises MaasError."""

    async def send(
        self, connection: LoadConnection, level: int, number: int, start: float
    ) -> RequestSample:
        """Send request `number` of `level`; `start` is when it was due. Raises MaasError."""


class RowRequests:
    """Sends the same row to `/predict`."""

    generates_text = False

    def __init__(self, address: Address, path: str, body: bytes) -> None:
        self._request = address.post(path, body)

    async def warm_up(self, connection: LoadConnection) -> None:
        await connection.send(self._request, _ignore)

    async def send(
        self, connection: LoadConnection, level: int, number: int, start: float
    ) -> RequestSample:
        await connection.send(self._request, _ignore)
        now = time.perf_counter()
        return RequestSample(start, now, now, now)


class TextRequests:
    """Requests streams from OpenAI's completions; every prompt differs unless `load.same_prompt`.

    Completions, because a continued text needs no chat template and rarely ends early.
    """

    generates_text = True

    def __init__(self, address: Address, deployment: str, load: Load) -> None:
        self._address = address
        self._deployment = deployment
        self._load = load
        self._words = load.prompt_tokens

    async def warm_up(self, connection: LoadConnection) -> None:
        """Find how many words make a prompt of the requested length."""
        timings = await self._complete(connection, prompt(self._load.seed, -1, 0, self._words), 1)
        if timings.usage is not None:
            counted = timings.usage.prompt_tokens
            self._words = words_for(self._load.prompt_tokens, self._words, counted)

    async def send(
        self, connection: LoadConnection, level: int, number: int, start: float
    ) -> RequestSample:
        position = (0, 0) if self._load.same_prompt else (level, number)
        text = prompt(self._load.seed, *position, self._words)
        timings = await self._complete(connection, text, self._load.output_tokens)
        now = time.perf_counter()
        if timings.usage is None:
            raise MaasError("the stream has no usage")
        details = timings.usage.prompt_tokens_details
        return RequestSample(
            start,
            timings.first,
            timings.last,
            now,
            timings.usage.prompt_tokens,
            timings.usage.completion_tokens,
            details.cached_tokens if details else 0,
        )

    async def _complete(self, connection: LoadConnection, text: str, tokens: int) -> StreamTimings:
        body = {
            "model": self._deployment,
            "prompt": text,
            "max_tokens": tokens,
            "temperature": 0,
            "seed": self._load.seed % (1 << 31),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        timings = StreamTimings()
        await connection.send(self._address.post("/v1/completions", encode(body)), timings.feed)
        timings.check()
        return timings


@dataclass(frozen=True)
class Level:
    """A level of the load: concurrency (closed loop) or rate per second (open loop)."""

    concurrency: int | None = None
    rate: float | None = None


class LoadRun:
    """All levels of a load, one after another. An instance runs once."""

    def __init__(
        self,
        address: Address,
        requests: LoadRequests,
        load: Load,
        levels: list[Level],
        progress: LoadProgressCallback | None,
    ) -> None:
        self.finished: list[LevelResult] = []
        """Results of the levels so far; after an interruption the last may be incomplete."""
        self._address = address
        self._requests = requests
        self._load = load
        self._levels = levels
        self._progress = progress
        self._number = 0
        self._begin()

    async def run(self) -> None:
        """Run all levels. Raises the error of the very first request; later errors are counted.

        If it is cancelled, `finished` has the results so far.
        """
        connection = LoadConnection(self._address)
        try:
            await self._requests.warm_up(connection)
        finally:
            connection.close()
        for number, level in enumerate(self._levels):
            self._number = number
            self._begin()
            try:
                with self._reporting():
                    if level.concurrency is not None:
                        await self._closed(level.concurrency)
                    elif level.rate is not None:
                        await self._open(level.rate)
            except asyncio.CancelledError:
                self._finish(level, complete=False)
                raise
            self._finish(level, complete=True)

    # -- one level --------------------------------------------------------------------------

    def _begin(self) -> None:
        self._samples: list[RequestSample] = []
        self._errors = 0
        self._sent = 0
        self._start = time.perf_counter()
        self._cpu = time.process_time()

    def _finish(self, level: Level, *, complete: bool) -> None:
        if not self._samples:
            return
        result = figures(
            (level.concurrency, level.rate),
            self._samples,
            generates_text=self._requests.generates_text,
            cpu_s=time.process_time() - self._cpu,
            complete=complete,
        )
        self.finished.append(result)
        self._report(result)

    def _is_running(self, minimum: int) -> bool:
        if self._sent >= MOST_SAMPLES:
            return False
        if self._load.requests is not None:
            return self._sent < max(self._load.requests, minimum)
        return self._sent < minimum or time.perf_counter() - self._start < self._load.seconds

    async def _closed(self, concurrency: int) -> None:
        connections = [LoadConnection(self._address) for _ in range(concurrency)]
        try:
            for connection in connections:
                await connection.connect()
            self._begin()
            async with asyncio.TaskGroup() as group:
                for connection in connections:
                    group.create_task(self._send_in_turn(connection, concurrency))
        finally:
            for connection in connections:
                connection.close()

    async def _send_in_turn(self, connection: LoadConnection, minimum: int) -> None:
        while self._is_running(minimum):
            number, self._sent = self._sent, self._sent + 1
            pause = await self._one(connection, number, time.perf_counter())
            if pause:
                await asyncio.sleep(pause)

    async def _open(self, rate: float) -> None:
        """Latencies count from when a request was due, so that they include the time it waited for
        earlier ones."""
        arrivals = random.Random(f"{self._load.seed} arrivals {rate}")
        idle: list[LoadConnection] = []
        at_once = 0

        async def one(number: int, due: float) -> None:
            nonlocal at_once
            connection = idle.pop() if idle else LoadConnection(self._address)
            at_once += 1
            try:
                await self._one(connection, number, due)
            finally:
                at_once -= 1
                idle.append(connection)

        due = self._start
        try:
            async with asyncio.TaskGroup() as group:
                while self._is_running(1):
                    due += arrivals.expovariate(rate)
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    number, self._sent = self._sent, self._sent + 1
                    if at_once < MOST_AT_ONCE:
                        group.create_task(one(number, due))
                    else:
                        self._count(RequestSample(due, 0.0, 0.0, due, error=NOT_SENT))
        finally:
            for connection in idle:
                connection.close()

    async def _one(self, connection: LoadConnection, number: int, start: float) -> float:
        """Send one request. Returns the seconds to wait before the next: 0 unless it failed."""
        pause = 0.0
        try:
            async with asyncio.timeout(self._load.timeout_s):
                sample = await self._requests.send(connection, self._number, number, start)
        except TimeoutError:
            sample = RequestSample(start, 0.0, 0.0, time.perf_counter(), error=CLIENT_TIMEOUT)
        except MaasError as error:
            sample = RequestSample(start, 0.0, 0.0, time.perf_counter(), error=error.code)
            pause = min(LONGEST_PAUSE_S, error.retry_after or USUAL_PAUSE_S)
        self._count(sample)
        return pause

    def _count(self, sample: RequestSample) -> None:
        self._samples.append(sample)
        self._errors += bool(sample.error)

    # -- progress ---------------------------------------------------------------------------

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        async def report() -> None:
            while True:
                self._report(None)
                await asyncio.sleep(REPORT_EVERY_S)

        task = asyncio.ensure_future(report()) if self._progress is not None else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    def _report(self, result: LevelResult | None) -> None:
        if self._progress is None:
            return
        level = self._levels[self._number]
        label = f"rate {level.rate:g}/s" if level.rate is not None else ""
        self._progress(
            LoadProgress(
                label or f"concurrency {level.concurrency}",
                self._number,
                len(self._levels),
                len(self._samples),
                self._errors,
                time.perf_counter() - self._start,
                result,
            )
        )


def _ignore(_: bytes) -> None:
    return None
