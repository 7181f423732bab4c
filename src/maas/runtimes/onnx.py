"""ONNX models through ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import onnxruntime as ort

from maas.domain.errors import InferenceFailed, InvalidInput, MaasError, Unavailable
from maas.domain.names import shown
from maas.domain.signature import Signature, TensorSpec
from maas.runtimes.base import Arrays, LoadRequest, Runtime

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}

OPTIONS = {
    "spinning": "whether threads wait for work in a busy loop",
    "arena": "whether memory of earlier calls is reused by later ones",
    "prepacking": "whether weights are copied into the layout that is fastest to compute with",
}


class OnnxRuntime(Runtime):
    """A session of ONNX Runtime on the CPU."""

    def load(self, request: LoadRequest) -> None:
        """Loads the one file of the variant. Raises InvalidInput if ONNX Runtime cannot, or the
        signature does not match."""
        if len(request.files) != 1:
            raise InvalidInput(f"an ONNX variant has one file, not {len(request.files)}")
        (model,) = request.files.values()
        self._session = open_session(model, request.threads, request.options)
        _check_signature(request.signature, self._session)
        self._outputs = [spec.name for spec in request.signature.outputs]

    def predict(self, inputs: Arrays) -> Arrays:
        try:
            outputs = self._session.run(self._outputs, inputs)
        except Exception as wrong:  # noqa: BLE001 - see open_session
            raise inference_error(wrong) from None
        return dict(zip(self._outputs, outputs, strict=True))


def open_session(
    model: bytes, threads: int, variant_options: Mapping[str, Any] = MappingProxyType({})
) -> ort.InferenceSession:
    """A session on the CPU, with `variant_options` from OPTIONS.

    Raises InvalidInput if ONNX Runtime does not load the model, or for an unknown option.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    _apply(options, variant_options)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as wrong:  # noqa: BLE001 - the library raises a dozen unrelated classes
        raise InvalidInput(f"ONNX Runtime does not load this model: {wrong}") from None


def inference_error(wrong: Exception) -> MaasError:
    """The error for an exception of a running session."""
    if isinstance(wrong, MemoryError) or "allocate memory" in str(wrong):
        return Unavailable("not enough memory for this input", retry_after=1.0)
    return InferenceFailed(f"the model failed on this input: {wrong}")


def _apply(options: ort.SessionOptions, variant_options: Mapping[str, Any]) -> None:
    """Sets `variant_options`. Raises InvalidInput for an unknown one."""
    for name, value in variant_options.items():
        if name not in OPTIONS:
            raise InvalidInput(
                f"an ONNX variant has no option {shown(name)}; expected one of "
                f"{', '.join(OPTIONS)}",
                field="options",
            )
        if not isinstance(value, bool):
            raise InvalidInput(f"{name} must be true or false; got {shown(value)}", field="options")
    # Spinning threads take cores from the gateway and other replicas.
    spinning = variant_options.get("spinning", False)
    options.add_session_config_entry("session.intra_op.allow_spinning", "01"[spinning])
    options.enable_cpu_mem_arena = variant_options.get("arena", True)
    if not variant_options.get("prepacking", True):
        options.add_session_config_entry("session.disable_prepacking", "1")


def _check_signature(signature: Signature, session: ort.InferenceSession) -> None:
    """Raises InvalidInput unless the session has exactly the inputs of the signature, and its
    outputs, with their datatypes and matching shapes."""
    for side, specs, nodes in (
        ("input", signature.inputs, session.get_inputs()),
        ("output", signature.outputs, session.get_outputs()),
    ):
        by_name = {node.name: node for node in nodes}
        for spec in specs:
            if spec.name not in by_name:
                raise InvalidInput(
                    f"the model has no {side} {spec.name!r}; it has {', '.join(by_name)}"
                )
            node = by_name[spec.name]
            datatype = _DATATYPES.get(node.type, node.type)
            if datatype != spec.datatype:
                raise InvalidInput(
                    f"{side} {spec.name!r} is {datatype} in the model and {spec.datatype} in the "
                    "signature"
                )
            if side == "input":
                _check_shape(spec, list(node.shape))
        if side == "input" and len(by_name) != len(specs):
            missing = set(by_name) - {s.name for s in specs}
            raise InvalidInput(f"the signature lacks the model's inputs {sorted(missing)}")


def _check_shape(spec: TensorSpec, shape: list[int | str | None]) -> None:
    """Raises InvalidInput unless `shape`, the model's with the batch first, matches; names and None
    in it match any size."""
    matches = len(shape) == len(spec.shape) + 1
    for actual, expected in zip(shape[1:], spec.shape, strict=False):
        matches = matches and (not isinstance(actual, int) or actual == expected)
    if not matches:
        raise InvalidInput(
            f"input {spec.name!r} has shape {shape} in the model and "
            f"{['n', *spec.shape]} in the signature"
        )
