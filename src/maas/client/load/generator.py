"""Puts a load on a deployment: closed loop at given concurrency, or open loop at given rates."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from maas.client.http.calls import encode
from maas.client.load.connections import Address, LoadConnection, StreamTimings
from maas.domain.errors import MaasError
from maas.lifecycle.load.load_results import (
    MOST_AT_ONCE,
    MOST_SAMPLES,
    LevelResult,
    Load,
    LoadProgress,
    RequestSample,
)
from maas.lifecycle.load.prompts import prompt, words_for
from maas.lifecycle.load.statistics import NOT_SENT, figures

Watch = Callable[[LoadProgress], None]
TELL_EVERY_S = 0.25
LONGEST_PAUSE_S = 1.0
"""After a refusal; a caller who asks again at once would measure refusals."""
USUAL_PAUSE_S = 0.05
CLIENT_TIMEOUT = "client_timeout"


class LoadRequests(Protocol):
    """Knows what is asked, and what an answer means."""

    writes: bool
    """Whether the answers are text that comes in pieces."""

    async def prepare(self, line: LoadConnection) -> None:
        """Asks once, so that nothing is measured cold. Raises what that raises."""

    async def ask(
        self, line: LoadConnection, level: int, number: int, start: float
    ) -> RequestSample:
        """One request. Raises MaasError."""


class RowRequests:
    """Asks `/predict` for the same row."""

    writes = False

    def __init__(self, address: Address, path: str, body: bytes) -> None:
        self._request = address.post(path, body)

    async def prepare(self, line: LoadConnection) -> None:
        await line.ask(self._request, _ignore)

    async def ask(
        self, line: LoadConnection, level: int, number: int, start: float
    ) -> RequestSample:
        await line.ask(self._request, _ignore)
        now = time.perf_counter()
        return RequestSample(start, now, now, now)


class TextRequests:
    """Asks OpenAI's completions for a stream; every prompt is another, unless the load wants one.

    Completions, because a text that is continued needs no template and seldom ends early.
    """

    writes = True

    def __init__(self, address: Address, deployment: str, load: Load) -> None:
        self._address = address
        self._deployment = deployment
        self._load = load
        self._words = load.prompt_tokens

    async def prepare(self, line: LoadConnection) -> None:
        """Learns how many words make a prompt of the wanted length."""
        said = await self._written(line, prompt(self._load.seed, -1, 0, self._words), 1)
        if said.usage is not None:
            counted = said.usage.prompt_tokens
            self._words = words_for(self._load.prompt_tokens, self._words, counted)

    async def ask(
        self, line: LoadConnection, level: int, number: int, start: float
    ) -> RequestSample:
        place = (0, 0) if self._load.same_prompt else (level, number)
        text = prompt(self._load.seed, *place, self._words)
        said = await self._written(line, text, self._load.output_tokens)
        now = time.perf_counter()
        if said.usage is None:
            raise MaasError("the stream has no usage")
        details = said.usage.prompt_tokens_details
        return RequestSample(
            start,
            said.first,
            said.last,
            now,
            said.usage.prompt_tokens,
            said.usage.completion_tokens,
            details.cached_tokens if details else 0,
        )

    async def _written(self, line: LoadConnection, text: str, tokens: int) -> StreamTimings:
        body = {
            "model": self._deployment,
            "prompt": text,
            "max_tokens": tokens,
            "temperature": 0,
            "seed": self._load.seed % (1 << 31),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        said = StreamTimings()
        await line.ask(self._address.post("/v1/completions", encode(body)), said.take)
        said.check()
        return said


@dataclass(frozen=True)
class Level:
    """Exactly one of the two."""

    concurrency: int | None = None
    rate: float | None = None


class LoadRun:
    """All levels of a load, one after the other; used once."""

    def __init__(
        self,
        address: Address,
        asker: LoadRequests,
        load: Load,
        levels: list[Level],
        watch: Watch | None,
    ) -> None:
        self.finished: list[LevelResult] = []
        """Levels that are over; after an interruption the last may be incomplete."""
        self._address = address
        self._asker = asker
        self._load = load
        self._levels = levels
        self._watch = watch
        self._number = 0
        self._begin()

    async def run(self) -> None:
        """Raises what the first request of all raises; later failures are counted. Cancelled, it
        leaves what is known in `finished`."""
        line = LoadConnection(self._address)
        try:
            await self._asker.prepare(line)
        finally:
            line.close()
        for number, level in enumerate(self._levels):
            self._number = number
            self._begin()
            try:
                with self._telling():
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
        self._taken = 0
        self._start = time.perf_counter()
        self._cpu = time.process_time()

    def _finish(self, level: Level, *, complete: bool) -> None:
        if not self._samples:
            return
        found = figures(
            (level.concurrency, level.rate),
            self._samples,
            writes=self._asker.writes,
            cpu_s=time.process_time() - self._cpu,
            complete=complete,
        )
        self.finished.append(found)
        self._tell(found)

    def _goes_on(self, least: int) -> bool:
        if self._taken >= MOST_SAMPLES:
            return False
        if self._load.requests is not None:
            return self._taken < max(self._load.requests, least)
        return self._taken < least or time.perf_counter() - self._start < self._load.seconds

    async def _closed(self, concurrency: int) -> None:
        lines = [LoadConnection(self._address) for _ in range(concurrency)]
        try:
            for line in lines:
                await line.connect()
            self._begin()
            async with asyncio.TaskGroup() as group:
                for line in lines:
                    group.create_task(self._keep_asking(line, concurrency))
        finally:
            for line in lines:
                line.close()

    async def _keep_asking(self, line: LoadConnection, least: int) -> None:
        while self._goes_on(least):
            number, self._taken = self._taken, self._taken + 1
            pause = await self._one(line, number, time.perf_counter())
            if pause:
                await asyncio.sleep(pause)

    async def _open(self, rate: float) -> None:
        """Latencies count from when a request was due, so that a slow answer shows in those that
        had to wait behind it."""
        arrivals = random.Random(f"{self._load.seed} arrivals {rate}")
        idle: list[LoadConnection] = []
        at_once = 0

        async def one(number: int, due: float) -> None:
            nonlocal at_once
            line = idle.pop() if idle else LoadConnection(self._address)
            at_once += 1
            try:
                await self._one(line, number, due)
            finally:
                at_once -= 1
                idle.append(line)

        due = self._start
        try:
            async with asyncio.TaskGroup() as group:
                while self._goes_on(1):
                    due += arrivals.expovariate(rate)
                    await asyncio.sleep(max(0.0, due - time.perf_counter()))
                    number, self._taken = self._taken, self._taken + 1
                    if at_once < MOST_AT_ONCE:
                        group.create_task(one(number, due))
                    else:
                        self._count(RequestSample(due, 0.0, 0.0, due, error=NOT_SENT))
        finally:
            for line in idle:
                line.close()

    async def _one(self, line: LoadConnection, number: int, start: float) -> float:
        """Seconds to wait before the next, if this one failed."""
        pause = 0.0
        try:
            async with asyncio.timeout(self._load.timeout_s):
                sample = await self._asker.ask(line, self._number, number, start)
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
    def _telling(self) -> Iterator[None]:
        async def tell() -> None:
            while True:
                self._tell(None)
                await asyncio.sleep(TELL_EVERY_S)

        task = asyncio.ensure_future(tell()) if self._watch is not None else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()

    def _tell(self, found: LevelResult | None) -> None:
        if self._watch is None:
            return
        level = self._levels[self._number]
        label = f"rate {level.rate:g}/s" if level.rate is not None else ""
        self._watch(
            LoadProgress(
                label or f"concurrency {level.concurrency}",
                self._number,
                len(self._levels),
                len(self._samples),
                self._errors,
                time.perf_counter() - self._start,
                found,
            )
        )


def _ignore(_: bytes) -> None:
    return None
