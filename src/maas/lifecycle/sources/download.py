"""Downloads over HTTP, resumed as long as attempts make progress.

The machine that pulls is the caller's own, so the caller may use any address. Redirects are
restricted: never to a weaker scheme, and never from a public address to a private one, so that a
web server cannot make this machine send requests behind its firewall.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2

from maas.domain.errors import (
    Forbidden,
    InvalidInput,
    MaasError,
    NotFound,
    StorageFailed,
    Unauthenticated,
    Unavailable,
)
from maas.lifecycle.sources.base import Progress, SourceAccess
from maas.lifecycle.sources.workspace import DownloadLimits, ExpectedDigest, PartialDownload

ATTEMPTS = 6
"""Consecutive attempts without progress; any received byte resets the count."""
PAUSE_S = 0.5
MAX_REDIRECTS = 5
TIMEOUT_S = 30.0
"""Timeout of connecting, and of waiting for the next byte."""
PIECE_BYTES = 256 << 10
_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_REFUSALS: dict[int, tuple[type[MaasError], str]] = {
    401: (Unauthenticated, "; a login is required"),
    403: (Forbidden, "; access is not permitted"),
    404: (NotFound, "; there is no such file"),
    410: (NotFound, "; the file is gone"),
}


@dataclass(frozen=True)
class Download:
    url: httpx2.URL
    digest: ExpectedDigest
    size: int | None = None
    """Size if it is known before the server's response."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers for this server only; they are not sent to the target of a redirect."""


class _Transient(Exception):
    """The attempt failed, and another one may succeed."""


def download(
    source: Download, partial: PartialDownload, access: SourceAccess, progress: Progress
) -> None:
    """Downloads and verifies a file to `partial.target`.

    Raises InvalidInput for another digest, NotFound, Forbidden, Unauthenticated, OutOfSpace,
    BodyTooLarge, StorageFailed for an unexpected response, Unavailable if the server stops
    sending; then the partial file stays for the next attempt.
    """
    resumed = partial.size > 0
    with httpx2.Client(verify=_trust(access), timeout=TIMEOUT_S) as http:
        fetch = _Fetch(http, source, partial, access.max_bytes, progress)
        fetch.until_whole()
        try:
            partial.finish(source.digest)
        except InvalidInput:
            if not resumed:
                raise
            # The partial file may be of other content; a new download may be the right file.
            fetch.until_whole()
            partial.finish(source.digest)


@dataclass(frozen=True)
class _Fetch:
    http: httpx2.Client
    source: Download
    partial: PartialDownload
    max_bytes: int
    progress: Progress

    def until_whole(self) -> None:
        failures = 0
        while True:
            before = self.partial.size
            try:
                with self._answer(before) as response:
                    self._take(response)
                return
            except (httpx2.TransportError, _Transient) as error:
                host = self.source.url.host
                if "CERTIFICATE_VERIFY_FAILED" in str(error):
                    raise Unavailable(
                        f"the certificate of {host} is not trusted here ({error}); pull.ca_file "
                        "can name a file of trusted certificates"
                    ) from None
                failures = failures + 1 if self.partial.size <= before else 1
                if failures >= ATTEMPTS:
                    raise Unavailable(
                        f"{host} did not send the file: {error or type(error).__name__}; the same "
                        f"command resumes after {self.partial.size} bytes"
                    ) from None
                time.sleep(PAUSE_S * 2 ** (failures - 1))

    @contextmanager
    def _answer(self, start: int) -> Iterator[httpx2.Response]:
        """The response at the end of the redirects, with an unread body."""
        url = self.source.url
        plain = {"accept-encoding": "identity"} | ({"range": f"bytes={start}-"} if start else {})
        public = _is_public(url.host)
        for _ in range(MAX_REDIRECTS + 1):
            same = (url.scheme, url.netloc) == (self.source.url.scheme, self.source.url.netloc)
            headers = plain | (dict(self.source.headers) if same else {})
            with self.http.stream("GET", url, headers=headers) as response:
                if not response.has_redirect_location:
                    yield response
                    return
                to = url.join(response.headers["location"])
            if to.scheme not in ("https", self.source.url.scheme):
                raise StorageFailed(f"{url.host} redirects to {to.scheme}://, not to https://")
            if public and not _is_public(to.host):
                raise StorageFailed(
                    f"{url.host} redirects to {to.host}, an address of a private network; if that "
                    "is intended, pull from that address"
                )
            url = to
        raise StorageFailed(f"more than {MAX_REDIRECTS} redirects, the last to {url.host}")

    def _take(self, response: httpx2.Response) -> None:
        start, total = _place(response, self.partial.size)
        if response.status_code == 416:
            return
        host = response.url.host
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in ("text/html", "application/xhtml+xml"):
            raise StorageFailed(
                f"{host} sent a web page and not a file; the address must be that of the download"
            )
        if response.headers.get("content-encoding", "identity") != "identity":
            raise StorageFailed(f"{host} sent the file in an encoding that was not requested")
        if self.source.size is not None and total not in (None, self.source.size):
            raise StorageFailed(f"{host} has {total} bytes; {self.source.size} are expected")
        limits = DownloadLimits(total or self.source.size, self.max_bytes, self.progress)
        self.partial.grow(response.iter_raw(PIECE_BYTES), start, limits)
        if limits.total is not None and self.partial.size < limits.total:
            raise _Transient("the connection ended early")


def _place(response: httpx2.Response, here: int) -> tuple[int, int | None]:
    """(First byte of the response's body, size of the file)."""
    status, host = response.status_code, response.url.host
    if status == 206:
        content_range = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        if content_range is None or int(content_range[1]) != here:
            raise StorageFailed(f"{host} sent another part of the file than was requested")
        return here, int(content_range[2])
    if status == 200:
        length = response.headers.get("content-length", "")
        return 0, int(length) if length.isascii() and length.isdigit() else None
    if status == 416:
        # Nothing follows: the partial file is complete or of other content, as the digest shows.
        return here, None
    if status in _RETRIED:
        raise _Transient(f"it responds with {status}")
    kind, advice = _REFUSALS.get(status, (StorageFailed, ""))
    raise kind(f"{host} responds with {status}{advice}")


def _trust(access: SourceAccess) -> ssl.SSLContext:
    trust = ssl.create_default_context()
    if access.ca_file:
        try:
            trust.load_verify_locations(access.ca_file)
        except OSError as error:
            raise InvalidInput(f"pull.ca_file {access.ca_file} cannot be read: {error}") from None
    return trust


def _is_public(host: str) -> bool:
    """Whether every address of a host is outside private networks and this machine."""
    try:
        addresses = socket.getaddrinfo(host, 443, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return True  # a proxy resolves the names
    return all(ipaddress.ip_address(str(a[4][0]).partition("%")[0]).is_global for a in addresses)
