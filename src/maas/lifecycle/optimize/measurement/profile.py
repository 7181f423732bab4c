"""Profile: what a variant consists of, where its time goes, and what its answers cost."""

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
from maas.lifecycle.optimize.graph import GraphLayer, read_layers
from maas.lifecycle.optimize.results import Array, Candidate, EvaluationRows, Measurement

RUNS = 20
MOST_LAYERS = 30
MOST_HEADER = 100_000_000
IN_GRAPH = ("parameters", "multiply_adds", "largest")


@dataclass(frozen=True)
class CorePrice:
    """What an hour of one core costs."""

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
    """One node that ran, as the engine names it after its own optimizations."""

    name: str
    op: str
    share: float
    """Of the time in all nodes."""
    ms: float
    """Of one call."""


@dataclass
class Profile:
    """What is known; `missing` says why the rest is not."""

    parameters: int | None = None
    multiply_adds: int | None = None
    """For one row."""
    file_bytes: int = 0
    memory_bytes: int | None = None
    """Of a fresh process that answers with it."""
    core_seconds_per_1000: float | None = None
    cost_per_1000: float | None = None
    """In the currency of the price."""
    slowest: list[dict[str, Any]] = field(default_factory=list)
    """Nodes that ran, by share of the time: name, op, share, ms."""
    operators: list[dict[str, Any]] = field(default_factory=list)
    """The same by kind of operator: op, nodes, share."""
    largest: list[dict[str, Any]] = field(default_factory=list)
    """Layers of the graph by size: name, op, parameters, bytes, multiply_adds."""
    missing: dict[str, str] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def evidence(self, variant: str) -> Evidence:
        """Of kind `profile`, as `maas models show` prints it."""
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

    The time is that of `candidate.batch` of the rows with `candidate.threads` threads. What a kind
    of file does not tell is said in `missing`; nothing is raised for it.
    """
    found = Profile(file_bytes=sum(path.stat().st_size for path in candidate.files.values()))
    path = next(iter(candidate.files.values()))
    if candidate.runtime in ("onnx", "image_classifier") or path.suffix == ".onnx":
        onnx = next((p for p in candidate.files.values() if p.suffix == ".onnx"), path)
        _of_graph(found, onnx)
        if candidate.runtime == "onnx":
            _of_time(found, onnx, candidate, rows)
        else:
            found.missing["slowest"] = f"{candidate.runtime} prepares its inputs itself"
    else:
        _of_weights(found, candidate)
    of_measurement(found, measurement, price)
    return found


def _of_graph(found: Profile, path: Path) -> None:
    try:
        layers = read_layers(path)
    except InvalidInput as wrong:
        found.missing |= dict.fromkeys(IN_GRAPH, wrong.message)
        return
    found.parameters = sum(layer.parameters for layer in layers)
    unknown = [layer.name for layer in layers if layer.multiply_adds is None]
    if unknown:
        found.missing["multiply_adds"] = (
            f"shapes of {len(unknown)} layers are not known, for example {unknown[0]}"
        )
    else:
        found.multiply_adds = sum(layer.multiply_adds or 0 for layer in layers)
    largest = sorted((x for x in layers if x.bytes), key=lambda x: -x.bytes)
    found.largest = [_line(layer) for layer in largest[:MOST_LAYERS]]
    found.how |= {"multiply_adds": "of one row, by onnx shape inference, in layers that multiply"}


def _line(layer: GraphLayer) -> dict[str, Any]:
    return asdict(layer)


def _of_time(found: Profile, path: Path, candidate: Candidate, rows: EvaluationRows) -> None:
    inputs = {name: array[: candidate.batch] for name, array in rows.inputs.items()}
    timed = time_by_layer(path, inputs, candidate.threads)
    found.slowest = [asdict(t) for t in timed[:MOST_LAYERS]]
    shares: dict[str, list[float]] = defaultdict(list)
    for layer in timed:
        shares[layer.op].append(layer.share)
    found.operators = sorted(
        ({"op": op, "nodes": len(s), "share": sum(s)} for op, s in shares.items()),
        key=lambda line: -line["share"],
    )
    found.how |= {
        "batch": len(next(iter(inputs.values()))),
        "threads": candidate.threads,
        "runs": RUNS,
        "time": "onnxruntime's profiler, after its graph optimizations",
    }


def time_by_layer(path: Path, inputs: Mapping[str, Array], threads: int) -> list[NodeTime]:
    """Every node that ran, slowest first, on average over runs after the first few.

    Raises InferenceFailed with onnxruntime's words if the model does not answer.
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
        for _ in range(RUNS):
            run_session(session, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text())
    spent: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            spent[name, event["args"]["op_name"]].append(event["dur"] / 1000)
    kept = {key: sum(ms[RUNS // 4 :]) / max(1, len(ms[RUNS // 4 :])) for key, ms in spent.items()}
    total = sum(kept.values()) or 1.0
    timed = [NodeTime(name, op, ms / total, ms) for (name, op), ms in kept.items()]
    return sorted(timed, key=lambda t: -t.share)


def _of_weights(found: Profile, candidate: Candidate) -> None:
    """Parameters of safetensors files, from their headers."""
    why = f"{candidate.runtime} files do not tell"
    found.missing |= dict.fromkeys((*IN_GRAPH, "slowest"), why)
    paths = [p for p in candidate.files.values() if p.suffix == ".safetensors"]
    if not paths:
        return
    try:
        tensors = [line for path in paths for line in _safetensors(path)]
    except (ValueError, KeyError, OSError, TypeError) as wrong:
        found.missing["parameters"] = f"its header cannot be read: {wrong}"
        return
    found.parameters = sum(line["parameters"] for line in tensors)
    tensors.sort(key=lambda line: -line["bytes"])
    found.largest = tensors[:MOST_LAYERS]
    del found.missing["parameters"], found.missing["largest"]


def _safetensors(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > min(MOST_HEADER, path.stat().st_size):
            raise ValueError("it is longer than the file")
        header = json.loads(file.read(size))
    return [
        {
            "name": name,
            "op": str(tensor["dtype"]),
            "parameters": math.prod(tensor["shape"]),
            "bytes": int(tensor["data_offsets"][1]) - int(tensor["data_offsets"][0]),
            "multiply_adds": None,
        }
        for name, tensor in header.items()
        if name != "__metadata__"
    ]


def of_measurement(
    found: Profile, measurement: Measurement | None, price: CorePrice | None
) -> None:
    """Memory, work and cost, or why they are not known."""
    if measurement is None:
        why = "not measured; `maas optimize` does that"
        found.missing |= dict.fromkeys(("memory_bytes", "core_seconds_per_1000"), why)
    else:
        found.memory_bytes = measurement.resident_bytes
        found.core_seconds_per_1000 = measurement.core_seconds_per_1000.value
    if price is None:
        found.missing["cost_per_1000"] = "no price of a core-hour is set"
    elif found.core_seconds_per_1000 is None:
        found.missing["cost_per_1000"] = found.missing["core_seconds_per_1000"]
    else:
        found.cost_per_1000 = found.core_seconds_per_1000 / 3600 * price.per_core_hour
        found.how |= {"price_per_core_hour": price.per_core_hour, "currency": price.currency}
