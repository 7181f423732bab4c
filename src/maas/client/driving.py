"""Runs operations to their end: one driver that blocks, one that is awaited."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from maas.client.calls import Awaitable, Call, Flow, Pause, Step
from maas.client.transport import AsyncTransport, SyncTransport
from maas.domain.errors import MaasError

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """Runs operations to their end."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def _run(self, operation: Call[T] | Flow[T]) -> T:
        if isinstance(operation, Call):
            return self._transport.send(operation)
        answer: Any = None
        error: MaasError | None = None
        try:
            while True:
                step = operation.throw(error) if error else operation.send(answer)
                answer = error = None
                try:
                    answer = self._take(step)
                except MaasError as raised:
                    error = raised
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            operation.close()

    def _take(self, step: Step) -> Any:
        if isinstance(step, Call):
            return self._transport.send(step)
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        if isinstance(step, Awaitable):
            return _run_awaitable(step)
        return step.run()


class Awaited:
    """Runs operations to their end without blocking the event loop."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def _run(self, operation: Call[T] | Flow[T]) -> T:
        if isinstance(operation, Call):
            return await self._transport.send(operation)
        answer: Any = None
        error: MaasError | None = None
        try:
            while True:
                step = operation.throw(error) if error else operation.send(answer)
                answer = error = None
                try:
                    answer = await self._take(step)
                except MaasError as raised:
                    error = raised
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            operation.close()

    async def _take(self, step: Step) -> Any:
        if isinstance(step, Call):
            return await self._transport.send(step)
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Awaitable):
            return await step.start()
        return await asyncio.to_thread(step.run)


def _run_awaitable(step: Awaitable) -> Any:
    """In a loop of its own: in a thread of its own, too, if the caller (a notebook) runs one."""

    def run() -> Any:
        with asyncio.Runner() as runner:
            return runner.run(step.start())

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        try:
            return run()
        except KeyboardInterrupt:
            return step.stopped()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def blocking(operation: Callable[P, Call[T] | Flow[T]]) -> Callable[Concatenate[Any, P], T]:
    @functools.wraps(operation)
    def method(self: Blocking, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(operation(*args, **kwargs))

    return method


def awaited(
    operation: Callable[P, Call[T] | Flow[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    @functools.wraps(operation)
    async def method(self: Awaited, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(operation(*args, **kwargs))

    return method
