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

SWITCHES = {
    "spinning": "whether threads wait for work by turning in circles",
    "arena": "whether memory of former calls is kept for the next ones",
    "prepacking": "whether weights are copied into the order that is fastest to compute with",
}


class OnnxRuntime(Runtime):
    """One ONNX Runtime session."""

    def load(self, request: LoadRequest) -> None:
        """Loads the one file of the variant; raises InvalidInput if it is no such model."""
        if len(request.files) != 1:
            raise InvalidInput(f"an ONNX variant has one file, not {len(request.files)}")
        (model,) = request.files.values()
        self._session = open_session(model, request.threads, request.options)
        _check_signature(request.signature, self._session)
        self._outputs = [spec.name for spec in request.signature.outputs]

    def predict(self, inputs: Arrays) -> Arrays:
        try:
            answers = self._session.run(self._outputs, inputs)
        except Exception as wrong:  # noqa: BLE001 - see open_session
            raise failed(wrong) from None
        return dict(zip(self._outputs, answers, strict=True))


def open_session(
    model: bytes, threads: int, engine: Mapping[str, Any] = MappingProxyType({})
) -> ort.InferenceSession:
    """A session on the CPU; `engine` has SWITCHES that are not as usual.

    Raises InvalidInput if it is no such model, or for an unknown switch."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    _set_engine(options, engine)
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as wrong:  # noqa: BLE001 - the library raises a dozen unrelated classes
        raise InvalidInput(f"not a model that ONNX Runtime loads: {wrong}") from None


def failed(wrong: Exception) -> MaasError:
    """What a session raised while it ran, in our words."""
    if isinstance(wrong, MemoryError) or "allocate memory" in str(wrong):
        return Unavailable("not enough memory for this input", retry_after=1.0)
    return InferenceFailed(f"the model failed on this input: {wrong}")


def _set_engine(options: ort.SessionOptions, wanted: Mapping[str, Any]) -> None:
    """A variant's own options; see `SWITCHES`. Raises InvalidInput for any other."""
    for name, value in wanted.items():
        if name not in SWITCHES:
            raise InvalidInput(
                f"an ONNX variant has no option {shown(name)}; known are {', '.join(SWITCHES)}",
                field="options",
            )
        if not isinstance(value, bool):
            raise InvalidInput(f"{name} must be true or false; got {shown(value)}", field="options")
    # Spinning threads take the core from the gateway and from other replicas.
    spinning = wanted.get("spinning", False)
    options.add_session_config_entry("session.intra_op.allow_spinning", "01"[spinning])
    options.enable_cpu_mem_arena = wanted.get("arena", True)
    if not wanted.get("prepacking", True):
        options.add_session_config_entry("session.disable_prepacking", "1")


def _check_signature(signature: Signature, session: ort.InferenceSession) -> None:
    """Every named tensor exists with that datatype and a shape that fits."""
    for side, specs, nodes in (
        ("input", signature.inputs, session.get_inputs()),
        ("output", signature.outputs, session.get_outputs()),
    ):
        known = {node.name: node for node in nodes}
        for spec in specs:
            if spec.name not in known:
                raise InvalidInput(
                    f"the model has no {side} {spec.name!r}; it has {', '.join(known)}"
                )
            node = known[spec.name]
            datatype = _DATATYPES.get(node.type, node.type)
            if datatype != spec.datatype:
                raise InvalidInput(
                    f"{side} {spec.name!r} is {datatype} in the model and {spec.datatype} in the "
                    "signature"
                )
            if side == "input":
                _check_shape(spec, list(node.shape))
        if side == "input" and len(known) != len(specs):
            missing = set(known) - {s.name for s in specs}
            raise InvalidInput(f"the signature lacks the model's inputs {sorted(missing)}")


def _check_shape(spec: TensorSpec, shape: list[int | str | None]) -> None:
    """`shape` is the model's, batch dimension first; names and None stand for any size."""
    rows = shape[1:]
    fits = len(shape) == len(spec.shape) + 1 and all(
        not isinstance(of_model, int) or of_model == of_spec
        for of_model, of_spec in zip(rows, spec.shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"input {spec.name!r} has shape {shape} in the model and "
            f"{['n', *spec.shape]} in the signature"
        )
