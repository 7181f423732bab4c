"""Drivers of operations: one that blocks, one for asyncio."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

from maas.client.http.calls import ApiCall, Awaitable, Flow, Step, WaitStep
from maas.client.http.transport import AsyncTransport, SyncTransport
from maas.domain.errors import MaasError

P = ParamSpec("P")
T = TypeVar("T")


class BlockingDriver:
    """Runs operations and blocks until they are done."""

    def __init__(self, transport: SyncTransport) -> None:
        self._transport = transport

    def _run(self, operation: ApiCall[T] | Flow[T]) -> T:
        if isinstance(operation, ApiCall):
            return self._transport.send(operation)
        answer: Any = None
        error: MaasError | None = None
        try:
            while True:
                step = operation.throw(error) if error else operation.send(answer)
                answer = error = None
                try:
                    answer = self._run_step(step)
                except MaasError as raised:
                    error = raised
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            operation.close()

    def _run_step(self, step: Step) -> Any:
        if isinstance(step, ApiCall):
            return self._transport.send(step)
        if isinstance(step, WaitStep):
            return time.sleep(step.seconds)
        if isinstance(step, Awaitable):
            return _run_awaitable(step)
        return step.run()


class AsyncDriver:
    """Runs operations without blocking the event loop."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def _run(self, operation: ApiCall[T] | Flow[T]) -> T:
        if isinstance(operation, ApiCall):
            return await self._transport.send(operation)
        answer: Any = None
        error: MaasError | None = None
        try:
            while True:
                step = operation.throw(error) if error else operation.send(answer)
                answer = error = None
                try:
                    answer = await self._run_step(step)
                except MaasError as raised:
                    error = raised
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            operation.close()

    async def _run_step(self, step: Step) -> Any:
        if isinstance(step, ApiCall):
            return await self._transport.send(step)
        if isinstance(step, WaitStep):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Awaitable):
            return await step.start()
        return await asyncio.to_thread(step.run)


def _run_awaitable(step: Awaitable) -> Any:
    """Run a coroutine in a new event loop, in a new thread if this one already runs a loop (as in a
    notebook)."""

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


D = TypeVar("D", bound=BlockingDriver | AsyncDriver, covariant=True)


class MethodGroup(Generic[D]):
    """A namespace of methods, such as `client.models`; their operations are run by `driver`."""

    def __init__(self, driver: D) -> None:
        self._run = driver._run


class ClientMethod(Generic[P, T]):
    """A descriptor that makes an operation a method of both clients.

    The method blocks in a `BlockingDriver` and is a coroutine function in an `AsyncDriver`.
    """

    def __init__(self, make: Callable[P, ApiCall[T] | Flow[T]]) -> None:
        @functools.wraps(make)
        def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            return self._run(make(*args, **kwargs))

        @functools.wraps(make)
        async def coroutine(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
            return await self._run(make(*args, **kwargs))

        self._method, self._coroutine = method, coroutine

    @overload
    def __get__(self, owner: None, kind: type) -> Callable[Concatenate[Any, P], Any]: ...
    @overload
    def __get__(
        self, owner: BlockingDriver | MethodGroup[BlockingDriver], kind: type
    ) -> Callable[P, T]: ...
    @overload
    def __get__(
        self, owner: AsyncDriver | MethodGroup[AsyncDriver], kind: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, owner: Any, kind: type) -> Any:
        function = self._coroutine if issubclass(kind, AsyncDriver) else self._method
        return function if owner is None else MethodType(function, owner)
