"""Open Inference Protocol v2 over REST, with the binary tensor extension.

A model of the protocol is a deployment, and its versions are those that the deployment serves.
JSON has no NaN and no infinity. Binary tensors may hold them, because they mean "missing" to some
models. Source: the protocol's `inference_rest.md`, Triton's `extension_binary_data.md`.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from maas.domain.errors import MaasError, NotFound
from maas.domain.names import shown
from maas.domain.signature import TensorSpec
from maas.gateway.calls import CallContext, Encoded, HttpCall, deadline_of
from maas.gateway.http.large_bodies import LARGE_BYTES
from maas.gateway.http.request import JSON, Request
from maas.gateway.oip.json_fast_path import OipJsonFastPath
from maas.gateway.oip.request import (
    HEADER_LENGTH,
    RequestedOutput,
    decode_inputs,
    json_bytes,
    requested_outputs,
    split,
)
from maas.serving.routing.live_target import LiveTarget
from maas.serving.routing.router import LiveDeployment
from maas.serving.wire.json_codec import Decoded
from maas.serving.wire.json_tensors import flat_elements
from maas.serving.wire.messages import Answers, Buffer, rows_of

DecodedRequest = tuple[Decoded, str, list[RequestedOutput] | None]
"""The inputs, the request's id, and the requested outputs; None for all outputs in JSON."""
OCTETS = b"application/octet-stream"


class OipHandler:
    """Handles the routes below `/v2`."""

    def __init__(self, context: CallContext, version: str, max_json: int) -> None:
        """`version` is that of the server. `max_json` is the largest JSON part of a request, in
        bytes; binary tensors do not count."""
        self._context = context
        self._max_json = max_json
        self._version = version
        self._fast_paths: WeakKeyDictionary[LiveTarget, OipJsonFastPath] = WeakKeyDictionary()
        self._latest: tuple[LiveTarget | None, OipJsonFastPath | None] = (None, None)
        """The target of the latest request with its fast path; the next request usually has the
        same."""

    # -- metadata and health ----------------------------------------------------------------

    def server_metadata(self, request: Request) -> None:
        _answer(request, {"name": "openmaas", "version": self._version,
                          "extensions": ["binary_tensor_data"]})  # fmt: skip

    def server_live(self, request: Request) -> None:
        _answer(request, {"live": True})

    def server_ready(self, request: Request) -> None:
        ready = not request.connection.server.draining
        _answer(request, {"ready": ready}, 200 if ready else 503)

    def model_metadata(self, request: Request) -> None:
        deployment, version = self._deployment_and_version(request)
        target = deployment.pick(version)
        signature = target.signature
        _answer(
            request,
            {
                "name": deployment.name,
                "versions": [str(t.version) for t in deployment.targets],
                "platform": f"openmaas_{target.variant}",
                "inputs": [_tensor_metadata(spec) for spec in signature.inputs],
                "outputs": [_tensor_metadata(spec) for spec in signature.outputs],
            },
        )

    def model_ready(self, request: Request) -> None:
        deployment, version = self._deployment_and_version(request)
        targets = [t for t in deployment.targets if version in (None, t.version)]
        if version is not None and not targets:
            raise NotFound(f"{deployment.name} does not serve version {version}")
        ready = any(target.is_ready for target in targets)
        _answer(request, {"name": deployment.name, "ready": ready}, 200 if ready else 503)

    def _deployment_and_version(self, request: Request) -> tuple[LiveDeployment, int | None]:
        """The deployment and version in the path. Raises NotFound."""
        version = None
        if len(request.params) > 1:
            text = request.params[1]
            if not text.isascii() or not text.isdigit() or len(text) > 9:
                raise NotFound(f"a version is a whole number, not {shown(text)}")
            version = int(text)
        return self._context.router.get(request.params[0]), version

    # -- inference --------------------------------------------------------------------------

    def infer(self, request: Request) -> None:
        """Start a prediction. Raises NotFound; other errors are metered and answered."""
        deployment, version = self._deployment_and_version(request)
        context = self._context
        target = None
        try:
            target = deployment.pick(version)
            latest, fast_path = self._latest
            if latest is not target or fast_path is None:
                fast_path = self._fast_path_of(target)
            decoded = None
            if HEADER_LENGTH in request.head.headers:
                # Decoding a binary tensor of BYTES takes time, as each element is read; binary
                # tensors of other datatypes are not decoded.
                size = len(request.body) if target.travels_alone else json_bytes(request)
            else:
                size = len(request.body)
                if size <= LARGE_BYTES and size <= self._max_json:
                    decoded = fast_path.decode(request.body)
            if decoded is not None:
                self._continue(request, target, fast_path, None, (*decoded, None))
            elif size <= LARGE_BYTES:
                general = self._decode(request, target, fast_path)
                self._continue(request, target, fast_path, None, general)
            else:
                deadline = deadline_of(request, context.timeout_s)
                decode = partial(self._decode, request, target, fast_path)
                then = partial(self._continue, request, target, fast_path, deadline)
                context.large_bodies.read(request, deadline, decode, then)
        except MaasError as error:
            context.meter.failed(request.key, "predict", deployment.name, target, error)
            request.fail(error)

    def _decode(
        self, request: Request, target: LiveTarget, fast_path: OipJsonFastPath
    ) -> DecodedRequest:
        """Decode any request. Raises BadRequest, BodyTooLarge, MalformedBody or InvalidInput."""
        body = request.body
        if LARGE_BYTES < len(body) <= self._max_json and HEADER_LENGTH not in request.headers:
            decoded = fast_path.decode(body)
            if decoded is not None:
                return *decoded, None
        message, tail = split(request, self._max_json)
        inputs = decode_inputs(target.signature, message, tail)
        return inputs, message.id or "", requested_outputs(target.signature, message)

    def _continue(
        self,
        request: Request,
        target: LiveTarget,
        fast_path: OipJsonFastPath,
        deadline: float | None,
        decoded: DecodedRequest | MaasError,
    ) -> None:
        """Continue after the body was decoded or refused."""
        try:
            if isinstance(decoded, MaasError):
                raise decoded
            kind = VersionCall if len(request.head.params) > 1 else OipCall
            call = kind(request, target, self._context, decoded[0], deadline)
            _, call.id, call.outputs = decoded
            call.fast_path = fast_path
            call.submit()
        except MaasError as error:
            meter = self._context.meter
            meter.failed(request.key, "predict", target.deployment, target, error)
            request.fail(error)

    def _fast_path_of(self, target: LiveTarget) -> OipJsonFastPath:
        fast_path = self._fast_paths.get(target)
        if fast_path is None:
            fast_path = OipJsonFastPath(target.signature, target.deployment, target.version)
            self._fast_paths[target] = fast_path
        self._latest = (target, fast_path)
        return fast_path


class OipCall(HttpCall):
    """An inference request."""

    __slots__ = ("fast_path", "id", "outputs")

    encodes_in_thread = True

    id: str
    fast_path: OipJsonFastPath
    outputs: list[RequestedOutput] | None
    """The requested outputs; None for all outputs in JSON."""

    def encode(self, answers: Answers, first_row: int) -> Encoded:
        if self.outputs is None:
            encoded = self.fast_path.encode(answers, first_row, self.rows, self.id)
            if encoded is not None:
                return encoded
            signature = self.target.signature
            self.outputs = [(at, spec, False) for at, spec in enumerate(signature.outputs)]
        outputs: list[dict[str, Any]] = []
        tail: list[Buffer] = []
        for place, spec, is_binary in self.outputs:
            column = answers.columns[place]
            data = rows_of(column, first_row, self.rows, answers.total_rows)
            out: dict[str, Any] = {
                "name": spec.name,
                "datatype": spec.datatype,
                "shape": [self.rows, *column.shape],
            }
            if is_binary:
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
    """A request to `/v2/models/NAME/versions/VERSION/infer`, for no other version."""

    __slots__ = ()

    is_pinned = True


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": [-1, *spec.shape]}


def _answer(request: Request, body: dict[str, Any], status: int = 200) -> None:
    request.respond(status, msgspec.json.encode(body))
