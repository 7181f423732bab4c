"""Profile of a variant: parameters, time by layer, memory and cost."""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.models import Evidence
from maas.lifecycle.conversion.onnx_files import run_session
from maas.lifecycle.optimize.graph import read_layers
from maas.lifecycle.optimize.results import Array, Candidate, EvaluationRows, Measurement

CALLS = 20
WARM_UP_CALLS = CALLS // 4
MOST_LAYERS = 30
MOST_HEADER_BYTES = 100_000_000
GRAPH_FIELDS = ("parameters", "multiply_adds", "largest")


@dataclass(frozen=True)
class CorePrice:
    """Price of one core for one hour."""

    per_core_hour: float
    currency: str = "USD"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.per_core_hour) and self.per_core_hour >= 0):
            raise InvalidInput(
                f"the price of a core-hour must be a number ≥ 0; got {self.per_core_hour}",
                field="price",
            )


@dataclass(frozen=True)
class NodeTime:
    """Time of one node of the graph, as it is after the engine's own optimizations."""

    name: str
    op: str
    share: float
    """Share of the time of all nodes."""
    ms: float
    """Milliseconds per call."""


@dataclass
class Profile:
    """Figures of a variant; `missing` gives the reason for each one that is not available."""

    parameters: int | None = None
    multiply_adds: int | None = None
    """Multiply-adds per row, or per token of a language model."""
    file_bytes: int = 0
    memory_bytes: int | None = None
    """Resident memory of a new process that answers with it."""
    core_seconds_per_1000: float | None = None
    cost_per_1000: float | None = None
    """Cost in the currency of the price."""
    slowest: list[dict[str, Any]] = field(default_factory=list)
    """Nodes by share of the time: name, op, share, ms."""
    operators: list[dict[str, Any]] = field(default_factory=list)
    """Operator types by share of the time: op, nodes, share."""
    largest: list[dict[str, Any]] = field(default_factory=list)
    """Layers of the graph by size: name, op, parameters, bytes, multiply_adds."""
    missing: dict[str, str] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def evidence(self, variant: str) -> Evidence:
        """Evidence of kind `profile`, as `maas models show` prints it."""
        values = self.to_dict()
        how = values.pop("how")
        return Evidence(kind="profile", values=values, how=how, variant=variant)


def profile(
    candidate: Candidate,
    rows: EvaluationRows,
    measurement: Measurement | None = None,
    price: CorePrice | None = None,
) -> Profile:
    """Graph, time by layer, memory and cost of a candidate.

    The time is measured with `candidate.batch` rows and `candidate.threads` threads. Figures that
    the files do not provide are explained in `missing`; nothing is raised for them.
    """
    result = Profile(file_bytes=sum(path.stat().st_size for path in candidate.files.values()))
    path = next(iter(candidate.files.values()))
    if candidate.runtime in ("onnx", "image_classifier") or path.suffix == ".onnx":
        onnx = next((p for p in candidate.files.values() if p.suffix == ".onnx"), path)
        _add_graph(result, onnx)
        if candidate.runtime == "onnx":
            _add_times(result, onnx, candidate, rows)
        else:
            result.missing["slowest"] = f"{candidate.runtime} prepares its inputs itself"
    else:
        _add_safetensors(result, candidate)
    add_measurement(result, measurement, price)
    return result


def _add_graph(result: Profile, path: Path) -> None:
    """Parameters, multiply-adds and largest layers of an ONNX graph."""
    try:
        layers = read_layers(path)
    except InvalidInput as error:
        result.missing |= dict.fromkeys(GRAPH_FIELDS, error.message)
        return
    result.parameters = sum(layer.parameters for layer in layers)
    unknown = [layer.name for layer in layers if layer.multiply_adds is None]
    if unknown:
        result.missing["multiply_adds"] = (
            f"the shapes of {len(unknown)} layers are unknown, for example of {unknown[0]}"
        )
    else:
        result.multiply_adds = sum(layer.multiply_adds or 0 for layer in layers)
    largest = sorted((layer for layer in layers if layer.bytes), key=lambda layer: -layer.bytes)
    result.largest = [asdict(layer) for layer in largest[:MOST_LAYERS]]
    result.how |= {"multiply_adds": "per row, by onnx shape inference, in layers that multiply"}


def _add_times(result: Profile, path: Path, candidate: Candidate, rows: EvaluationRows) -> None:
    """Slowest nodes, and the share of each operator type."""
    inputs = {name: array[: candidate.batch] for name, array in rows.inputs.items()}
    times = time_by_layer(path, inputs, candidate.threads)
    result.slowest = [asdict(t) for t in times[:MOST_LAYERS]]
    shares: dict[str, list[float]] = defaultdict(list)
    for node in times:
        shares[node.op].append(node.share)
    for op, of_op in shares.items():
        result.operators.append({"op": op, "nodes": len(of_op), "share": sum(of_op)})
    result.operators.sort(key=lambda line: -line["share"])
    result.how |= {
        "batch": len(next(iter(inputs.values()))),
        "threads": candidate.threads,
        "runs": CALLS,
        "time": "onnxruntime's profiler, after its graph optimizations",
    }


def time_by_layer(path: Path, inputs: Mapping[str, Array], threads: int) -> list[NodeTime]:
    """Average time of every node after a few calls of warm-up, slowest first.

    Raises InferenceFailed with onnxruntime's message if the model does not answer.
    """
    import onnxruntime  # noqa: PLC0415  (0.2 s)

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "run"))
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
        for _ in range(CALLS):
            run_session(session, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            durations[name, event["args"]["op_name"]].append(event["dur"] / 1000)
    average_ms: dict[tuple[str, str], float] = {}
    for node, ms in durations.items():
        timed = ms[WARM_UP_CALLS:]
        average_ms[node] = sum(timed) / max(1, len(timed))
    total = sum(average_ms.values()) or 1.0
    times = [NodeTime(name, op, ms / total, ms) for (name, op), ms in average_ms.items()]
    return sorted(times, key=lambda t: -t.share)


def _add_safetensors(result: Profile, candidate: Candidate) -> None:
    """Parameters of safetensors files, from their headers."""
    reason = f"{candidate.runtime} files do not contain it"
    result.missing |= dict.fromkeys((*GRAPH_FIELDS, "slowest"), reason)
    paths = [p for p in candidate.files.values() if p.suffix == ".safetensors"]
    if not paths:
        return
    try:
        tensors = [line for path in paths for line in _safetensors_lines(path)]
    except (ValueError, KeyError, OSError, TypeError) as error:
        result.missing["parameters"] = f"its header cannot be read: {error}"
        return
    result.parameters = sum(line["parameters"] for line in tensors)
    tensors.sort(key=lambda line: -line["bytes"])
    result.largest = tensors[:MOST_LAYERS]
    del result.missing["parameters"], result.missing["largest"]


def _safetensors_lines(path: Path) -> list[dict[str, Any]]:
    """Name, dtype, parameters and bytes of each tensor in the header of a file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(MOST_HEADER_BYTES, path.stat().st_size):
            raise ValueError("it is longer than the file")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    lines = []
    for name, tensor in header.items():
        start, end = tensor["data_offsets"]
        lines.append(
            {
                "name": name,
                "op": str(tensor["dtype"]),
                "parameters": math.prod(tensor["shape"]),
                "bytes": int(end) - int(start),
                "multiply_adds": None,
            }
        )
    return lines


def add_measurement(
    result: Profile, measurement: Measurement | None, price: CorePrice | None
) -> None:
    """Adds memory, CPU time and cost, or the reasons why they are missing."""
    if measurement is None:
        reason = "not measured; `maas optimize` measures it"
        result.missing |= dict.fromkeys(("memory_bytes", "core_seconds_per_1000"), reason)
    else:
        result.memory_bytes = measurement.resident_bytes
        result.core_seconds_per_1000 = measurement.core_seconds_per_1000.value
    if price is None:
        result.missing["cost_per_1000"] = "no price of a core-hour is set"
    elif result.core_seconds_per_1000 is None:
        result.missing["cost_per_1000"] = result.missing["core_seconds_per_1000"]
    else:
        result.cost_per_1000 = result.core_seconds_per_1000 / 3600 * price.per_core_hour
        result.how |= {"price_per_core_hour": price.per_core_hour, "currency": price.currency}
