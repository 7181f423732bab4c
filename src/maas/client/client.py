"""`maas.Client` and `maas.AsyncClient`: the same names, one that blocks and one that is awaited.

Every method is an operation of this package's other files, bound to a transport here.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Literal, Self, overload

from maas import settings
from maas.client import (
    administration,
    deployments,
    optimizations,
    predictions,
    publications,
    pulling,
    registry,
)
from maas.client.bench import bench
from maas.client.chat import SECONDS as CHAT_SECONDS
from maas.client.chat import AsyncChatStream, ChatAnswer, ChatStream, Messages
from maas.client.chat import chat as chat_call
from maas.client.driving import Awaited, Blocking, awaited, blocking
from maas.client.loading import Watch
from maas.client.retry import RetryPolicy
from maas.client.transport import AsyncTransport, Connection, SyncTransport
from maas.lifecycle.load.words import Load, LoadResult


class _Models(Blocking):
    list = blocking(registry.models)
    get = blocking(registry.model)
    version = blocking(registry.version)


class _Deployments(Blocking):
    list = blocking(deployments.list_)
    get = blocking(deployments.get)
    put = blocking(deployments.put)
    delete = blocking(deployments.delete)


class _Keys(Blocking):
    list = blocking(administration.keys)
    create = blocking(administration.create_key)
    revoke = blocking(administration.revoke_key)


class _Jobs(Blocking):
    list = blocking(administration.jobs)
    get = blocking(administration.job)
    create = blocking(administration.create_job)
    update = blocking(administration.update_job)
    cancel = blocking(administration.cancel_job)


class _Files(Blocking):
    size = blocking(registry.stored_size)
    upload = blocking(registry.upload)
    download = blocking(registry.download)


class Client(Blocking):
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

    def bench(
        self, deployment: str, load: Load | None = None, watch: Watch | None = None
    ) -> LoadResult:
        """As `maas.client.bench.bench`. Ctrl-C ends it, and what is known is the result, with
        `interrupted`."""
        return self._run(bench(self._transport.connection, deployment, load, watch))

    predict = blocking(predictions.predict)
    explain = blocking(predictions.explain)
    publish = blocking(publications.publish)
    publish_prepared = blocking(publications.publish_prepared)
    pull = blocking(pulling.pull)
    optimize = blocking(optimizations.optimize)
    fetch_original = blocking(optimizations.fetch_original)
    send_optimization = blocking(optimizations.send_optimization)
    deploy = blocking(deployments.deploy)
    rollback = blocking(deployments.rollback)
    evidence = blocking(registry.evidence)
    add_evidence = blocking(registry.add_evidence)
    add_variant = blocking(registry.add_variant)
    usage = blocking(administration.usage)
    status = blocking(administration.status)
    logs = blocking(administration.logs)

    @overload
    def chat(
        self,
        deployment: str,
        messages: Messages,
        *,
        stream: Literal[False] = False,
        timeout: float = CHAT_SECONDS,
        **options: Any,
    ) -> ChatAnswer: ...
    @overload
    def chat(
        self,
        deployment: str,
        messages: Messages,
        *,
        stream: Literal[True],
        timeout: float = CHAT_SECONDS,
        **options: Any,
    ) -> ChatStream: ...
    def chat(
        self, deployment: str, messages: Messages, *, stream: bool = False,
        timeout: float = CHAT_SECONDS, **options: Any,
    ) -> ChatAnswer | ChatStream:  # fmt: skip
        """As `maas.client.chat.chat`; with `stream` the answer's pieces while they are written,
        `timeout` seconds at most between two of them."""
        if stream:
            return ChatStream(self._transport, deployment, messages, timeout, options)
        return self._run(chat_call(deployment, messages, timeout=timeout, **options))

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


class _AsyncModels(Awaited):
    list = awaited(registry.models)
    get = awaited(registry.model)
    version = awaited(registry.version)


class _AsyncDeployments(Awaited):
    list = awaited(deployments.list_)
    get = awaited(deployments.get)
    put = awaited(deployments.put)
    delete = awaited(deployments.delete)


class _AsyncKeys(Awaited):
    list = awaited(administration.keys)
    create = awaited(administration.create_key)
    revoke = awaited(administration.revoke_key)


class _AsyncJobs(Awaited):
    list = awaited(administration.jobs)
    get = awaited(administration.job)
    create = awaited(administration.create_job)
    update = awaited(administration.update_job)
    cancel = awaited(administration.cancel_job)


class _AsyncFiles(Awaited):
    size = awaited(registry.stored_size)
    upload = awaited(registry.upload)
    download = awaited(registry.download)


class AsyncClient(Awaited):
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

    async def bench(
        self, deployment: str, load: Load | None = None, watch: Watch | None = None
    ) -> LoadResult:
        """As `maas.client.bench.bench`, in the event loop of the caller."""
        return await self._run(bench(self._transport.connection, deployment, load, watch))

    predict = awaited(predictions.predict)
    explain = awaited(predictions.explain)
    publish = awaited(publications.publish)
    publish_prepared = awaited(publications.publish_prepared)
    pull = awaited(pulling.pull)
    optimize = awaited(optimizations.optimize)
    fetch_original = awaited(optimizations.fetch_original)
    send_optimization = awaited(optimizations.send_optimization)
    deploy = awaited(deployments.deploy)
    rollback = awaited(deployments.rollback)
    evidence = awaited(registry.evidence)
    add_evidence = awaited(registry.add_evidence)
    add_variant = awaited(registry.add_variant)
    usage = awaited(administration.usage)
    status = awaited(administration.status)
    logs = awaited(administration.logs)

    @overload
    async def chat(
        self,
        deployment: str,
        messages: Messages,
        *,
        stream: Literal[False] = False,
        timeout: float = CHAT_SECONDS,
        **options: Any,
    ) -> ChatAnswer: ...
    @overload
    async def chat(
        self,
        deployment: str,
        messages: Messages,
        *,
        stream: Literal[True],
        timeout: float = CHAT_SECONDS,
        **options: Any,
    ) -> AsyncChatStream: ...
    async def chat(
        self, deployment: str, messages: Messages, *, stream: bool = False,
        timeout: float = CHAT_SECONDS, **options: Any,
    ) -> ChatAnswer | AsyncChatStream:  # fmt: skip
        """As `Client.chat`; a stream is for `async for`."""
        if stream:
            return AsyncChatStream(self._transport, deployment, messages, timeout, options)
        return await self._run(chat_call(deployment, messages, timeout=timeout, **options))

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
