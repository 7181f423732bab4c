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
from maas.client.chat import SECONDS as CHAT_SECONDS
from maas.client.chat import AsyncChatStream, ChatAnswer, ChatStream, Messages, stream_call
from maas.client.chat import chat as chat_call
from maas.client.http.driving import AsyncDriver, BlockingDriver, D, OperationGroup, operation
from maas.client.http.retry import RetryPolicy
from maas.client.http.transport import AsyncTransport, Endpoint, SyncTransport
from maas.client.load.bench import bench
from maas.client.load.generator import Watch
from maas.lifecycle.load.load_results import Load, LoadResult


class _Models(OperationGroup[D]):
    list = operation(registry.models)
    get = operation(registry.model)
    version = operation(registry.version)


class _Deployments(OperationGroup[D]):
    list = operation(deployments.list_)
    get = operation(deployments.get)
    put = operation(deployments.put)
    delete = operation(deployments.delete)


class _Keys(OperationGroup[D]):
    list = operation(administration.keys)
    create = operation(administration.create_key)
    revoke = operation(administration.revoke_key)


class _Jobs(OperationGroup[D]):
    list = operation(administration.jobs)
    get = operation(administration.job)
    create = operation(administration.create_job)
    update = operation(administration.update_job)
    cancel = operation(administration.cancel_job)


class _Files(OperationGroup[D]):
    size = operation(registry.stored_size)
    upload = operation(registry.upload)
    download = operation(registry.download)


class _Operations:
    predict = operation(predictions.predict)
    explain = operation(predictions.explain)
    publish = operation(publications.publish)
    publish_prepared = operation(publications.publish_prepared)
    pull = operation(pulling.pull)
    optimize = operation(optimizations.optimize)
    fetch_original = operation(optimizations.fetch_original)
    send_optimization = operation(optimizations.send_optimization)
    deploy = operation(deployments.deploy)
    rollback = operation(deployments.rollback)
    evidence = operation(registry.evidence)
    add_evidence = operation(registry.add_evidence)
    add_variant = operation(registry.add_variant)
    usage = operation(administration.usage)
    status = operation(administration.status)
    logs = operation(administration.logs)


class Client(_Operations, BlockingDriver):
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
        self.models = _Models(self)
        self.deployments = _Deployments(self)
        self.keys = _Keys(self)
        self.jobs = _Jobs(self)
        self.files = _Files(self)

    @property
    def base_url(self) -> str:
        return self._transport.connection.base_url

    def bench(
        self, deployment: str, load: Load | None = None, watch: Watch | None = None
    ) -> LoadResult:
        """As `maas.client.load.bench.bench`. Ctrl-C ends it, and what is known is the result, with
        `interrupted`."""
        return self._run(bench(self._transport.connection, deployment, load, watch))

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
            call = stream_call(deployment, messages, timeout, options)
            return ChatStream(self._transport.lines(call))
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


class AsyncClient(_Operations, AsyncDriver):
    """As `Client`, with every method a coroutine; belongs to one event loop."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 2,
    ) -> None:
        super().__init__(AsyncTransport(_connection(base_url, api_key, timeout, retries)))
        self.models = _Models(self)
        self.deployments = _Deployments(self)
        self.keys = _Keys(self)
        self.jobs = _Jobs(self)
        self.files = _Files(self)

    @property
    def base_url(self) -> str:
        return self._transport.connection.base_url

    async def bench(
        self, deployment: str, load: Load | None = None, watch: Watch | None = None
    ) -> LoadResult:
        """As `maas.client.load.bench.bench`, in the event loop of the caller."""
        return await self._run(bench(self._transport.connection, deployment, load, watch))

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
            call = stream_call(deployment, messages, timeout, options)
            return AsyncChatStream(self._transport.lines(call))
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
) -> Endpoint:
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
    return Endpoint(address, api_key, timeout, RetryPolicy(retries))
