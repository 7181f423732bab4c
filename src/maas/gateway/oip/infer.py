"""Open Inference Protocol v2 over REST, with the binary tensor extension.

A model of the protocol is a deployment here, and its versions are those that the deployment
serves. JSON has no NaN and no infinity; binary tensors may hold them, because to some models they
mean "missing". Source: the protocol's `inference_rest.md`, Triton's `extension_binary_data.md`.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from maas.domain.errors import MaasError, NotFound
from maas.domain.names import shown
from maas.domain.signature import TensorSpec
from maas.gateway.calls import Encoded, HttpCall, deadline_of
from maas.gateway.http.large_bodies import LARGE_BYTES, large_bodies
from maas.gateway.http.request import JSON, Request
from maas.gateway.metering import Meter
from maas.gateway.oip.json_fast_path import OipJsonFastPath
from maas.gateway.oip.request import (
    HEADER_LENGTH,
    Wanted,
    decoded_inputs,
    json_bytes,
    split,
    wanted_outputs,
)
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import LiveDeployment, Router
from maas.serving.wire.codec import Decoded, flat_elements
from maas.serving.wire.messages import Answers, Buffer, rows_of

Understood = tuple[Decoded, str, list[Wanted] | None]
"""Inputs, the request's id, and which outputs are wanted: None is all, in JSON."""
OCTETS = b"application/octet-stream"


class OipHandler:
    def __init__(
        self, router: Router, meter: Meter, timeout_s: float, version: str, max_json: int
    ) -> None:
        """`max_json`: bytes of JSON that a request may have, besides binary tensors."""
        self._router = router
        self._max_json = max_json
        self._meter = meter
        self._timeout_s = timeout_s
        self._version = version
        self._quick: WeakKeyDictionary[LiveTarget, OipJsonFastPath] = WeakKeyDictionary()
        self._last: tuple[LiveTarget | None, OipJsonFastPath | None] = (None, None)
        """Of the latest request, whose like is the next one's nearly always."""

    # -- about the server and its models ----------------------------------------------------

    def server_metadata(self, request: Request) -> None:
        _answer(request, {"name": "openmaas", "version": self._version,
                          "extensions": ["binary_tensor_data"]})  # fmt: skip

    def server_live(self, request: Request) -> None:
        _answer(request, {"live": True})

    def server_ready(self, request: Request) -> None:
        ready = not request.connection.server.draining
        _answer(request, {"ready": ready}, 200 if ready else 503)

    def model_metadata(self, request: Request) -> None:
        deployment, version = self._named(request)
        target = deployment.pick(version)
        signature = target.signature
        _answer(
            request,
            {
                "name": deployment.name,
                "versions": [str(r.version) for r in deployment.targets],
                "platform": f"openmaas_{target.variant}",
                "inputs": [_tensor_metadata(spec) for spec in signature.inputs],
                "outputs": [_tensor_metadata(spec) for spec in signature.outputs],
            },
        )

    def model_ready(self, request: Request) -> None:
        deployment, version = self._named(request)
        targets = [r for r in deployment.targets if version in (None, r.version)]
        if version is not None and not targets:
            raise NotFound(f"{deployment.name} does not serve version {version}")
        ready = any(target.is_ready for target in targets)
        _answer(request, {"name": deployment.name, "ready": ready}, 200 if ready else 503)

    def _named(self, request: Request) -> tuple[LiveDeployment, int | None]:
        version = None
        if len(request.params) > 1:
            text = request.params[1]
            if not text.isascii() or not text.isdigit() or len(text) > 9:
                raise NotFound(f"a version is a whole number, not {shown(text)}")
            version = int(text)
        return self._router.get(request.params[0]), version

    # -- inference --------------------------------------------------------------------------

    def infer(self, request: Request) -> None:
        deployment, version = self._named(request)
        target = None
        try:
            target = deployment.pick(version)
            known, quick = self._last
            if known is not target or quick is None:
                quick = self._quick_for(target)
            found = None
            if HEADER_LENGTH in request.head.headers:
                # Elements of BYTES are counted one by one, those of fixed size not at all.
                size = len(request.body) if target.travels_alone else json_bytes(request)
            else:
                size = len(request.body)
                if size <= LARGE_BYTES and size <= self._max_json:
                    found = quick.decode(request.body)
            if found is not None:
                decoded, identity = found
                self._go(request, target, quick, None, (decoded, identity, None))
            elif size <= LARGE_BYTES:
                self._go(request, target, quick, None, self._understood(request, target, quick))
            else:
                deadline = deadline_of(request, self._timeout_s)
                read = partial(self._understood, request, target, quick)
                then = partial(self._go, request, target, quick, deadline)
                large_bodies.read(request, deadline, read, then)
        except MaasError as error:
            self._meter.failed(request.key, "predict", deployment.name, target, error)
            request.fail(error)

    def _understood(
        self, request: Request, target: LiveTarget, quick: OipJsonFastPath
    ) -> Understood:
        """Of any request. Raises BadRequest, BodyTooLarge, MalformedBody or InvalidInput."""
        body = request.body
        if LARGE_BYTES < len(body) <= self._max_json and HEADER_LENGTH not in request.headers:
            found = quick.decode(body)
            if found is not None:
                return *found, None
        asked, tail = split(request, self._max_json)
        decoded = decoded_inputs(target.signature, asked, tail)
        return decoded, asked.id or "", wanted_outputs(target.signature, asked)

    def _go(
        self,
        request: Request,
        target: LiveTarget,
        quick: OipJsonFastPath,
        deadline: float | None,
        found: Understood | MaasError,
    ) -> None:
        """On with a request that was understood, or not."""
        try:
            if isinstance(found, MaasError):
                raise found
            kind = VersionCall if len(request.head.params) > 1 else OipCall
            call = kind(request, target, self._meter, found[0], self._timeout_s, deadline)
            _, call.id, call.wanted = found
            call.quick = quick
            call.submit()
        except MaasError as error:
            self._meter.failed(request.key, "predict", target.deployment, target, error)
            request.fail(error)

    def _quick_for(self, target: LiveTarget) -> OipJsonFastPath:
        quick = self._quick.get(target)
        if quick is None:
            quick = OipJsonFastPath(target.signature, target.deployment, target.version)
            self._quick[target] = quick
        self._last = (target, quick)
        return quick


class OipCall(HttpCall):
    __slots__ = ("id", "quick", "wanted")

    encodes_aside = True

    id: str
    quick: OipJsonFastPath
    wanted: list[Wanted] | None
    """None: all outputs, in JSON."""

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        if self.wanted is None:
            encoded = self.quick.encode(answers, first_row, self.rows, self.id)
            if encoded is not None:
                return encoded
            signature = self.target.signature
            self.wanted = [(at, spec, False) for at, spec in enumerate(signature.outputs)]
        outputs: list[dict[str, Any]] = []
        tail: list[Buffer] = []
        for place, spec, binary in self.wanted:
            column = answers.columns[place]
            data = rows_of(column, first_row, self.rows, answers.total_rows)
            out: dict[str, Any] = {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": [self.rows, *column.shape],
            }
            if binary:
                out["parameters"] = {"binary_data_size": len(data)}
                tail.append(data)
            else:
                out["data"] = flat_elements(spec.datatype, data)
            outputs.append(out)
        target = self.target
        body = {
            "model_name": target.deployment,
            "model_version": str(target.version),
            "outputs": outputs,
        }
        if self.id:
            body["id"] = self.id
        head = msgspec.json.encode(body)
        if not tail:
            return head, JSON, ()
        length = (HEADER_LENGTH, b"%d" % len(head))
        return b"".join((head, *tail)), OCTETS, (length,)


class VersionCall(OipCall):
    """Of `/v2/models/NAME/versions/VERSION/infer`."""

    __slots__ = ()

    is_pinned = True


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": [-1, *spec.shape]}


def _answer(request: Request, body: dict[str, Any], status: int = 200) -> None:
    request.respond(status, msgspec.json.encode(body))
