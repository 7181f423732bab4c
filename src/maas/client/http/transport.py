"""HTTP transports: one that blocks, one for asyncio.

Both send an `ApiCall` and retry it as `retry.py` decides. The call itself parses the response.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from maas.client.http.calls import ApiCall, ApiReply, error_of
from maas.client.http.errors import ServerUnavailable
from maas.client.http.retry import RetryPolicy
from maas.domain.errors import DeadlineExceeded, InvalidInput, MaasError
from maas.domain.numbers import format_number

T = TypeVar("T")

CHUNK = 1 << 20


@dataclass(frozen=True)
class Endpoint:
    """Address of the server, API key, timeout in seconds and retries."""

    base_url: str
    api_key: str
    timeout_s: float
    retry: RetryPolicy

    def __post_init__(self) -> None:
        url = httpx2.URL(self.base_url)
        if url.scheme not in ("http", "https") or not url.host:
            raise InvalidInput(
                f"base_url must be a URL such as http://127.0.0.1:8000; got {self.base_url!r}",
                field="base_url",
            )
        if not (self.timeout_s > 0):
            raise InvalidInput(f"timeout must be above 0 seconds; got {self.timeout_s}")
        if not self.api_key.isascii() or not self.api_key.isprintable():
            raise InvalidInput("api_key must be printable ASCII", field="api_key")

    def options(self) -> dict[str, Any]:
        """Arguments for both of httpx2's clients."""
        url = httpx2.URL(self.base_url)
        headers = {"user-agent": "openmaas-python"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        return {
            "base_url": self.base_url,
            "headers": headers,
            # Reading the certificate store takes longer than a prediction, and http needs none.
            "verify": url.scheme == "https",
            # A proxy from the environment must not see requests to this machine.
            "trust_env": not _is_loopback(url.host),
            "timeout": self.timeout_s,
        }

    def lost(self, call: ApiCall[Any], error: httpx2.TransportError, waited_s: float) -> MaasError:
        """The error for a request without a response."""
        if isinstance(error, httpx2.TimeoutException) and not isinstance(
            error, httpx2.ConnectTimeout
        ):
            return DeadlineExceeded(
                f"{self.base_url} did not answer {call.method} {call.path} in "
                f"{format_number(waited_s, 's', digits=3)}"
            )
        if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
            return ServerUnavailable(
                f"no server answers at {self.base_url} ({error}); start one with `maas up`, or "
                "set MAAS_BASE_URL to the address of yours"
            )
        return ServerUnavailable(
            f"the connection to {self.base_url} broke before {call.method} {call.path} was "
            f"answered ({type(error).__name__}: {error})"
        )


class SyncTransport:
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._http = httpx2.Client(**endpoint.options())

    def send(self, call: ApiCall[T]) -> T:
        """The parsed response. Raises MaasError, and no other error for failures of server or
        network."""
        started = time.monotonic()
        deadline = started + (call.timeout or self.endpoint.timeout_s)
        attempt = 0
        while True:
            failure: httpx2.TransportError | None = None
            reply: ApiReply | None = None
            try:
                reply = self._once(call, deadline)
            except httpx2.TransportError as error:
                failure = error
            pause = _pause(self.endpoint, call, attempt, (reply, failure), deadline)
            if pause is None:
                return _finish(self.endpoint, call, (reply, failure), started)
            time.sleep(pause)
            attempt += 1

    def lines(self, call: ApiCall[Any]) -> Generator[str, None, None]:
        """Yield the lines of the response as they arrive; closing the generator closes the
        connection.

        `call.timeout` limits the seconds between two lines. Raises like `send`, without retries.
        """
        started = time.monotonic()
        request = _streamed(self._http, self.endpoint, call)
        try:
            response = self._http.send(request, stream=True)
            try:
                if response.status_code >= 400:
                    reply = ApiReply(response.status_code, dict(response.headers), response.read())
                    raise error_of(reply)
                yield from response.iter_lines()
            finally:
                response.close()
        except httpx2.TransportError as error:
            raise self.endpoint.lost(call, error, time.monotonic() - started) from error

    def close(self) -> None:
        self._http.close()

    def _once(self, call: ApiCall[Any], deadline: float) -> ApiReply:
        request = self._http.build_request(
            call.method,
            call.path,
            params=dict(call.params),
            content=_chunks(call.file) if call.file else call.body,
            headers=_headers(call),
            timeout=_left(deadline, call, self.endpoint),
        )
        response = self._http.send(request, stream=True)
        try:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if time.monotonic() > deadline:  # a response in drops would never time out
                    raise httpx2.ReadTimeout("the response did not end in time", request=request)
        finally:
            response.close()
        return ApiReply(response.status_code, dict(response.headers), bytes(body))


class AsyncTransport:
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._http = httpx2.AsyncClient(**endpoint.options())

    async def send(self, call: ApiCall[T]) -> T:
        """Like `SyncTransport.send`."""
        started = time.monotonic()
        deadline = started + (call.timeout or self.endpoint.timeout_s)
        attempt = 0
        while True:
            failure: httpx2.TransportError | None = None
            reply: ApiReply | None = None
            try:
                reply = await self._once(call, deadline)
            except httpx2.TransportError as error:
                failure = error
            pause = _pause(self.endpoint, call, attempt, (reply, failure), deadline)
            if pause is None:
                return _finish(self.endpoint, call, (reply, failure), started)
            await asyncio.sleep(pause)
            attempt += 1

    async def lines(self, call: ApiCall[Any]) -> AsyncGenerator[str, None]:
        """Like `SyncTransport.lines`."""
        started = time.monotonic()
        request = _streamed(self._http, self.endpoint, call)
        try:
            response = await self._http.send(request, stream=True)
            try:
                if response.status_code >= 400:
                    reply = ApiReply(
                        response.status_code, dict(response.headers), await response.aread()
                    )
                    raise error_of(reply)
                async for line in response.aiter_lines():
                    yield line
            finally:
                await response.aclose()
        except httpx2.TransportError as error:
            raise self.endpoint.lost(call, error, time.monotonic() - started) from error

    async def close(self) -> None:
        await self._http.aclose()

    async def _once(self, call: ApiCall[Any], deadline: float) -> ApiReply:
        request = self._http.build_request(
            call.method,
            call.path,
            params=dict(call.params),
            content=_chunks_async(call.file) if call.file else call.body,
            headers=_headers(call),
            timeout=_left(deadline, call, self.endpoint),
        )
        response = await self._http.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if time.monotonic() > deadline:
                    raise httpx2.ReadTimeout("the response did not end in time", request=request)
        finally:
            await response.aclose()
        return ApiReply(response.status_code, dict(response.headers), bytes(body))


Outcome = tuple[ApiReply | None, httpx2.TransportError | None]


def _pause(
    endpoint: Endpoint, call: ApiCall[Any], attempt: int, outcome: Outcome, deadline: float
) -> float | None:
    return endpoint.retry.pause(call, attempt, outcome[0], deadline - time.monotonic())


def _finish(endpoint: Endpoint, call: ApiCall[T], outcome: Outcome, started: float) -> T:
    reply, failure = outcome
    if failure is not None:
        raise endpoint.lost(call, failure, time.monotonic() - started) from failure
    if reply is None:
        raise MaasError("neither a response nor a failure")
    return call.read(reply)


def _streamed(
    http: httpx2.Client | httpx2.AsyncClient, endpoint: Endpoint, call: ApiCall[Any]
) -> httpx2.Request:
    return http.build_request(
        call.method,
        call.path,
        content=call.body,
        headers=_headers(call),
        timeout=call.timeout or endpoint.timeout_s,
    )


def _headers(call: ApiCall[Any]) -> dict[str, str]:
    headers = {"accept": "application/json, */*;q=0.5"}
    if call.file is not None:
        headers["content-length"] = str(call.file.stat().st_size)
    if call.file is not None or call.body is not None:
        headers["content-type"] = call.content_type
    return headers


def _left(deadline: float, call: ApiCall[Any], endpoint: Endpoint) -> float:
    """Seconds that one read or write may take. A file may take hours, but no chunk of it."""
    left = max(deadline - time.monotonic(), 0.001)
    return min(left, endpoint.timeout_s) if call.file else left


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


async def _chunks_async(file: Path) -> AsyncIterator[bytes]:
    with file.open("rb") as stream:
        while chunk := await asyncio.to_thread(stream.read, CHUNK):
            yield chunk


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
