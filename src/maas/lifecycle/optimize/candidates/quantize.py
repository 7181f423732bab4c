"""Weights and activations as 8-bit integers, by ONNX Runtime's quantization tools.

Scheme and terms follow Jacob et al., arXiv:1712.05877; statements about processors follow
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from maas.domain.machine import library_versions
from maas.lifecycle.optimize.candidates.rounding import round_weights
from maas.lifecycle.optimize.subject import NotApplicable

Method = Literal["minmax", "entropy", "percentile"]
METHODS = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
"""Names in onnxruntime."""
Rounding = Literal["nearest", "fitted"]

CALIBRATION_BATCH = 16
HISTOGRAM_NUMBERS = 2 << 20
"""Limit of numbers in the rows for entropy and percentile, which store every activation."""

FULL_RANGE, REDUCED_RANGE = 127, 64
"""Largest integers of a weight in onnxruntime.quantization."""
COMPUTE_OPERATORS = ("Conv", "MatMul", "Gemm")
"""Operators that take most of the time and have 8-bit kernels."""
TRANSPARENT_OPERATORS = (
    "Relu",
    "Clip",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Add",
    "Concat",
    "Pad",
)
"""Operators between these that can keep activations in 8 bits."""
SHAPE_OPERATORS = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


def int8_dynamic(source: Path, target: Path) -> dict[str, Any]:
    """Writes a graph with int8 weights of matrix products; activations are scaled at each call.

    Convolutions are not changed, because their dynamic kernels are slower than FP32 ones. Returns
    how it was made. Raises NotApplicable for a graph without matrix products by constants.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415  (1 s)

    _require(source, ("MatMul", "Gemm"), "dynamic int8")
    with _prepared(source) as prepared:
        quantize_dynamic(
            prepared,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    return _how("quantize_dynamic", operators=["MatMul", "Gemm"], per_channel=True, weights="int8")


def int8_static(
    source: Path,
    target: Path,
    calibration: Mapping[str, npt.NDArray[Any]],
    *,
    method: Method = "minmax",
    per_channel: bool = True,
    rounding: Rounding = "nearest",
) -> dict[str, Any]:
    """Writes a graph with 8-bit weights and activations, with ranges from the calibration rows.

    `calibration`: rows [n, …] for each input. `rounding`: each weight to the nearest integer, or
    all weights of a layer so that its outputs change least (`rounding.py`). Softmax and later
    operators stay in FP32, because 256 steps are too few for a probability. Returns how it was
    made. Raises NotApplicable for a graph without operators that can be quantized.
    """
    from onnxruntime.quantization import (  # noqa: PLC0415  (1 s)
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    _require(source, COMPUTE_OPERATORS, "static int8")
    rows = dict(calibration) if method == "minmax" else _histogram_rows(calibration)
    # Without 8-bit dot products that accumulate in 32 bits, sums of full-range products overflow.
    reduce_range = not has_dot_products()
    operators = [*COMPUTE_OPERATORS, *TRANSPARENT_OPERATORS, *SHAPE_OPERATORS]
    with _prepared(source) as prepared:
        quantize_static(
            prepared,
            target,
            _reader(rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            per_channel=per_channel,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod[METHODS[method]],
        )
        if rounding == "fitted":
            largest = REDUCED_RANGE if reduce_range else FULL_RANGE
            round_weights(prepared, target, calibration, largest=largest)
    return _how(
        "quantize_static",
        format="QDQ",
        operators=operators,
        calibration=method,
        calibration_rows=len(next(iter(rows.values()))),
        per_channel=per_channel,
        rounding=rounding,
        reduce_range=reduce_range,
        activations="uint8",
        weights="int8",
    )


def has_dot_products() -> bool:
    """Whether this processor accumulates 8-bit products in 32 bits (VNNI, or 64-bit ARM)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # macOS on ARM; on an Intel Mac sums of products may saturate
    return "vnni" in flags or "asimddp" in flags or "asimd" in flags


def operators_of(source: Path) -> dict[str, int]:
    """Number of nodes in the graph by operator."""
    import onnx  # noqa: PLC0415

    counts: dict[str, int] = {}
    for node in onnx.load(source, load_external_data=False).graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def _require(source: Path, any_of: tuple[str, ...], method: str) -> None:
    present = operators_of(source)
    if not any(name in present for name in any_of):
        raise NotApplicable(
            f"{method} applies to {', '.join(any_of)}, but this graph has "
            f"{', '.join(sorted(present)[:8])} only"
        )


def _histogram_rows(calibration: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The first calibration rows, as many as histograms have memory for."""
    numbers = sum(int(values[:1].size) for values in calibration.values())
    available = len(next(iter(calibration.values())))
    count = min(available, max(CALIBRATION_BATCH, HISTOGRAM_NUMBERS // max(1, numbers)))
    if count > CALIBRATION_BATCH:
        count -= count % CALIBRATION_BATCH  # histograms need batches of equal size
    return {name: values[:count] for name, values in calibration.items()}


def _reader(rows: Mapping[str, npt.NDArray[Any]]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader  # noqa: PLC0415

    class Rows(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self._batches = iter(range(0, len(next(iter(rows.values()))), CALIBRATION_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            start = next(self._batches, None)
            if start is None:
                return None
            return {
                name: values[start : start + CALIBRATION_BATCH] for name, values in rows.items()
            }

    return Rows()


@contextmanager
def _prepared(source: Path) -> Iterator[Path]:
    """The graph with inferred shapes and folded constants, which quantization needs."""
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="maas-quantize-") as scratch, _quiet():
        prepared = Path(scratch, "prepared.onnx")
        # Symbolic shapes help transformers only, and need another library.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        yield prepared


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the warnings of the library."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _how(function: str, **settings: Any) -> dict[str, Any]:
    return {
        "by": f"onnxruntime.quantization.{function}",
        "settings": {"quant_pre_process": True, **settings},
        "libraries": library_versions("onnxruntime", "onnx"),
    }
