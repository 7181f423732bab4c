"""`maas.Client` and `maas.AsyncClient`: the same names, one that blocks and one that is awaited.

Every method is an operation of this package's other files, bound to a transport here.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from maas import settings
from maas.client import (
    administration,
    deployments,
    optimizations,
    predictions,
    publications,
    registry,
)
from maas.client.calls import Call, Flow, Pause, Step
from maas.client.retry import RetryPolicy
from maas.client.transport import AsyncTransport, Connection, SyncTransport
from maas.domain.errors import MaasError

P = ParamSpec("P")
T = TypeVar("T")


class _Blocking:
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
        return step.run()


class _Awaited:
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
        return await asyncio.to_thread(step.run)


def _blocking(operation: Callable[P, Call[T] | Flow[T]]) -> Callable[Concatenate[Any, P], T]:
    @functools.wraps(operation)
    def method(self: _Blocking, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(operation(*args, **kwargs))

    return method


def _awaited(
    operation: Callable[P, Call[T] | Flow[T]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    @functools.wraps(operation)
    async def method(self: _Awaited, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(operation(*args, **kwargs))

    return method


class _Models(_Blocking):
    list = _blocking(registry.models)
    get = _blocking(registry.model)
    version = _blocking(registry.version)


class _Deployments(_Blocking):
    list = _blocking(deployments.list_)
    get = _blocking(deployments.get)
    put = _blocking(deployments.put)
    delete = _blocking(deployments.delete)


class _Keys(_Blocking):
    list = _blocking(administration.keys)
    create = _blocking(administration.create_key)
    revoke = _blocking(administration.revoke_key)


class _Jobs(_Blocking):
    list = _blocking(administration.jobs)
    get = _blocking(administration.job)
    create = _blocking(administration.create_job)
    update = _blocking(administration.update_job)
    cancel = _blocking(administration.cancel_job)


class _Files(_Blocking):
    size = _blocking(registry.stored_size)
    upload = _blocking(registry.upload)
    download = _blocking(registry.download)


class Client(_Blocking):
    """A connection to an OpenMaaS server; may be shared between threads.

    `base_url` and `api_key` default to the settings (environment, `maas.toml`, then the server
    and admin key of this home). `timeout`: seconds that one operation's request may take, with
    its retries. `retries`: how often a request that may safely be repeated is.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 2,
    ) -> None:
        super().__init__(SyncTransport(_connection(base_url, api_key, timeout, retries)))
        self.models = _Models(self._transport)
        self.deployments = _Deployments(self._transport)
        self.keys = _Keys(self._transport)
        self.jobs = _Jobs(self._transport)
        self.files = _Files(self._transport)

    @property
    def base_url(self) -> str:
        return self._transport.connection.base_url

    predict = _blocking(predictions.predict)
    explain = _blocking(predictions.explain)
    publish = _blocking(publications.publish)
    publish_prepared = _blocking(publications.publish_prepared)
    optimize = _blocking(optimizations.optimize)
    fetch_original = _blocking(optimizations.fetch_original)
    send_optimization = _blocking(optimizations.send_optimization)
    deploy = _blocking(deployments.deploy)
    rollback = _blocking(deployments.rollback)
    evidence = _blocking(registry.evidence)
    add_evidence = _blocking(registry.add_evidence)
    add_variant = _blocking(registry.add_variant)
    usage = _blocking(administration.usage)
    status = _blocking(administration.status)
    logs = _blocking(administration.logs)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _AsyncModels(_Awaited):
    list = _awaited(registry.models)
    get = _awaited(registry.model)
    version = _awaited(registry.version)


class _AsyncDeployments(_Awaited):
    list = _awaited(deployments.list_)
    get = _awaited(deployments.get)
    put = _awaited(deployments.put)
    delete = _awaited(deployments.delete)


class _AsyncKeys(_Awaited):
    list = _awaited(administration.keys)
    create = _awaited(administration.create_key)
    revoke = _awaited(administration.revoke_key)


class _AsyncJobs(_Awaited):
    list = _awaited(administration.jobs)
    get = _awaited(administration.job)
    create = _awaited(administration.create_job)
    update = _awaited(administration.update_job)
    cancel = _awaited(administration.cancel_job)


class _AsyncFiles(_Awaited):
    size = _awaited(registry.stored_size)
    upload = _awaited(registry.upload)
    download = _awaited(registry.download)


class AsyncClient(_Awaited):
    """As `Client`, with every method a coroutine; belongs to one event loop."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 2,
    ) -> None:
        super().__init__(AsyncTransport(_connection(base_url, api_key, timeout, retries)))
        self.models = _AsyncModels(self._transport)
        self.deployments = _AsyncDeployments(self._transport)
        self.keys = _AsyncKeys(self._transport)
        self.jobs = _AsyncJobs(self._transport)
        self.files = _AsyncFiles(self._transport)

    @property
    def base_url(self) -> str:
        return self._transport.connection.base_url

    predict = _awaited(predictions.predict)
    explain = _awaited(predictions.explain)
    publish = _awaited(publications.publish)
    publish_prepared = _awaited(publications.publish_prepared)
    optimize = _awaited(optimizations.optimize)
    fetch_original = _awaited(optimizations.fetch_original)
    send_optimization = _awaited(optimizations.send_optimization)
    deploy = _awaited(deployments.deploy)
    rollback = _awaited(deployments.rollback)
    evidence = _awaited(registry.evidence)
    add_evidence = _awaited(registry.add_evidence)
    add_variant = _awaited(registry.add_variant)
    usage = _awaited(administration.usage)
    status = _awaited(administration.status)
    logs = _awaited(administration.logs)

    async def close(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _connection(
    base_url: str | None, api_key: str | None, timeout: float, retries: int
) -> Connection:
    """With what the settings say where nothing is given.

    A key is only sent where it belongs: the settings' key to the settings' server, and a key that
    was set without an address (`MAAS_API_KEY` alone) to whatever address the caller names.
    """
    configured = settings.load()
    address = (base_url or configured.base_url).rstrip("/")
    if api_key is None:
        if address == configured.base_url.rstrip("/"):
            api_key = configured.api_key
        else:
            api_key = "" if configured.client.base_url else configured.client.api_key
    return Connection(address, api_key, timeout, RetryPolicy(retries))
