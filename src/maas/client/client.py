"""`maas.Client` and `maas.AsyncClient`: the same methods, blocking and for asyncio.

Most methods are operations from the other modules of this package, bound to a transport here.
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
from maas.client.http.drivers import AsyncDriver, BlockingDriver, ClientMethod, D, MethodGroup
from maas.client.http.retry import RetryPolicy
from maas.client.http.transport import AsyncTransport, Endpoint, SyncTransport
from maas.client.load_test.bench import bench
from maas.client.load_test.generator import LoadProgressCallback
from maas.lifecycle.load_test.results import Load, LoadResult


class _Models(MethodGroup[D]):
    list = ClientMethod(registry.models)
    get = ClientMethod(registry.model)
    version = ClientMethod(registry.version)


class _Deployments(MethodGroup[D]):
    list = ClientMethod(deployments.list_)
    get = ClientMethod(deployments.get)
    put = ClientMethod(deployments.put)
    delete = ClientMethod(deployments.delete)


class _Keys(MethodGroup[D]):
    list = ClientMethod(administration.keys)
    create = ClientMethod(administration.create_key)
    revoke = ClientMethod(administration.revoke_key)


class _Jobs(MethodGroup[D]):
    list = ClientMethod(administration.jobs)
    get = ClientMethod(administration.job)
    create = ClientMethod(administration.create_job)
    update = ClientMethod(administration.update_job)
    cancel = ClientMethod(administration.cancel_job)


class _Files(MethodGroup[D]):
    size = ClientMethod(registry.stored_size)
    upload = ClientMethod(registry.upload)
    download = ClientMethod(registry.download)


class _Methods:
    predict = ClientMethod(predictions.predict)
    explain = ClientMethod(predictions.explain)
    publish = ClientMethod(publications.publish)
    publish_prepared = ClientMethod(publications.publish_prepared)
    pull = ClientMethod(pulling.pull)
    optimize = ClientMethod(optimizations.optimize)
    fetch_original = ClientMethod(optimizations.fetch_original)
    send_optimization = ClientMethod(optimizations.send_optimization)
    deploy = ClientMethod(deployments.deploy)
    rollback = ClientMethod(deployments.rollback)
    evidence = ClientMethod(registry.evidence)
    add_evidence = ClientMethod(registry.add_evidence)
    add_variant = ClientMethod(registry.add_variant)
    usage = ClientMethod(administration.usage)
    status = ClientMethod(administration.status)
    logs = ClientMethod(administration.logs)


class Client(_Methods, BlockingDriver):
    """A client of an OpenMaaS server. Threads may share it.

        with maas.Client() as client:
            client.publish(model, "article", example=[1, 2, 3], evaluation=(x_test, y_test))
            client.deploy("article")
            client.predict("article", x=[1, 2, 3])  # one row: {"y_pred": 3.29}
            client.predict("article", x=[[1, 2, 3], [4, 5, 6]])  # a batch: {"y_pred": [3.29, 4.1]}

    `base_url` and `api_key` default to the settings: environment, `maas.toml`, then the server and
    the admin key of this home. `timeout`: seconds per request, retries included. `retries`: number
    of retries of idempotent requests.

    Methods raise subclasses of `maas.MaasError`: InvalidInput for values that do not fit, NotFound,
    Unauthenticated or Forbidden for the key, Conflict, Overloaded, DeadlineExceeded, and
    ServerUnavailable if no server answers.

    `models`, `deployments`, `keys`, `jobs` and `files` have methods such as `list` and `get`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 2,
    ) -> None:
        super().__init__(SyncTransport(_endpoint(base_url, api_key, timeout, retries)))
        self.models = _Models(self)
        self.deployments = _Deployments(self)
        self.keys = _Keys(self)
        self.jobs = _Jobs(self)
        self.files = _Files(self)

    @property
    def base_url(self) -> str:
        """Address of the server."""
        return self._transport.endpoint.base_url

    def bench(
        self,
        deployment: str,
        load: Load | None = None,
        progress: LoadProgressCallback | None = None,
    ) -> LoadResult:
        """Measure latency and throughput under load; see `maas.client.load_test.bench.bench`.

        Ctrl-C stops it; the result then has the figures so far, and `interrupted`.
        """
        return self._run(bench(self._transport.endpoint, deployment, load, progress))

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
        """The answer of a model to `messages`; see `maas.client.chat.chat`.

        With `stream` it is an iterator of the chunks of the answer as they are generated, and
        `timeout` limits the seconds between two of them.
        """
        if stream:
            call = stream_call(deployment, messages, timeout, options)
            return ChatStream(self._transport.lines(call))
        return self._run(chat_call(deployment, messages, timeout=timeout, **options))

    def close(self) -> None:
        """Close the connections."""
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


class AsyncClient(_Methods, AsyncDriver):
    """Like `Client`, with coroutines as methods. An instance belongs to one event loop."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 30.0,
        retries: int = 2,
    ) -> None:
        super().__init__(AsyncTransport(_endpoint(base_url, api_key, timeout, retries)))
        self.models = _Models(self)
        self.deployments = _Deployments(self)
        self.keys = _Keys(self)
        self.jobs = _Jobs(self)
        self.files = _Files(self)

    @property
    def base_url(self) -> str:
        """Address of the server."""
        return self._transport.endpoint.base_url

    async def bench(
        self,
        deployment: str,
        load: Load | None = None,
        progress: LoadProgressCallback | None = None,
    ) -> LoadResult:
        """Measure latency and throughput under load; see `maas.client.load_test.bench.bench`."""
        return await self._run(bench(self._transport.endpoint, deployment, load, progress))

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
        """Like `Client.chat`; iterate a stream with `async for`."""
        if stream:
            call = stream_call(deployment, messages, timeout, options)
            return AsyncChatStream(self._transport.lines(call))
        return await self._run(chat_call(deployment, messages, timeout=timeout, **options))

    async def close(self) -> None:
        """Close the connections."""
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


def _endpoint(base_url: str | None, api_key: str | None, timeout: float, retries: int) -> Endpoint:
    """The arguments of a client, completed from the settings.

    A key is only sent to its own server: the key of the settings to the server of the settings. A
    key without an address (`MAAS_API_KEY` alone) is sent to any address that the caller passes.
    """
    configured = settings.load()
    address = (base_url or configured.base_url).rstrip("/")
    if api_key is None:
        if address == configured.base_url.rstrip("/"):
            api_key = configured.api_key
        else:
            api_key = "" if configured.client.base_url else configured.client.api_key
    return Endpoint(address, api_key, timeout, RetryPolicy(retries))
