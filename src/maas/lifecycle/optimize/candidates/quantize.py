"""Weights and activations as 8-bit integers, by ONNX Runtime's quantization tools.

Scheme and terms after Jacob et al., arXiv:1712.05877; what is said about processors after
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
"""As onnxruntime names them."""
Rounding = Literal["nearest", "fitted"]

CALIBRATION_BATCH = 16
HISTOGRAM_NUMBERS = 2 << 20
"""Of the rows that entropy and percentile look at: they keep every activation of every layer."""

FULL_RANGE, REDUCED_RANGE = 127, 64
"""Largest integers of a weight, as onnxruntime.quantization has them."""
COMPUTING = ("Conv", "MatMul", "Gemm")
"""What takes the time, and what 8-bit kernels exist for."""
PASSING = ("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Concat", "Pad")
"""What may stand between these, so that activations stay 8-bit from one to the next."""
SHAPING = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")


def int8_dynamic(source: Path, target: Path) -> dict[str, Any]:
    """Weights of matrix products as int8; activations are scaled anew for each call.

    Convolutions stay as they are: their dynamic kernels are slower than FP32 ones. Returns how it
    was done; raises NotApplicable for a graph without matrix products by constants.
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
    """Weights and activations as 8-bit integers, with ranges seen on the calibration rows.

    `calibration`: by input name [n, …]. `rounding`: each weight to the nearest integer, or all of
    a layer so that its answers change least (see `rounding.py`). Softmax and what comes after stay
    FP32, because 256 steps are too few for a probability. Returns how it was done.
    """
    from onnxruntime.quantization import (  # noqa: PLC0415  (1 s)
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    _require(source, COMPUTING, "static int8")
    rows = _few(calibration) if method != "minmax" else dict(calibration)
    # Without 8-bit dot products that accumulate in 32 bits, sums of full-range products overflow.
    reduce_range = not has_dot_products()
    operators = [*COMPUTING, *PASSING, *SHAPING]
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
    """Whether this processor sums 8-bit products in 32 bits (VNNI, or any ARM of 64 bits)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # macOS on ARM; on an Intel Mac a range is then less finely cut, not wrong
    return "vnni" in flags or "asimddp" in flags or "asimd" in flags


def operators_of(source: Path) -> dict[str, int]:
    """How often each operator is in the graph."""
    import onnx  # noqa: PLC0415

    found: dict[str, int] = {}
    for node in onnx.load(source, load_external_data=False).graph.node:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


def _require(source: Path, any_of: tuple[str, ...], what: str) -> None:
    there = operators_of(source)
    if not any(name in there for name in any_of):
        raise NotApplicable(
            f"{what} is for {', '.join(any_of)}, of which this graph has none; it has "
            f"{', '.join(sorted(there)[:8])}"
        )


def _few(calibration: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    numbers = sum(int(values[:1].size) for values in calibration.values())
    there = len(next(iter(calibration.values())))
    most = min(there, max(CALIBRATION_BATCH, HISTOGRAM_NUMBERS // max(1, numbers)))
    if most > CALIBRATION_BATCH:
        most -= most % CALIBRATION_BATCH  # histograms take batches of one size only
    return {name: values[:most] for name, values in calibration.items()}


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
    """The graph with shapes, and with what can be folded folded: quantizing another is worse."""
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="maas-quantize-") as scratch, _quiet():
        prepared = Path(scratch, "prepared.onnx")
        # Symbolic shapes help transformers only, and need a library more.
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        yield prepared


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _how(function: str, **settings: Any) -> dict[str, Any]:
    return {
        "by": f"onnxruntime.quantization.{function}",
        "settings": {"quant_pre_process": True, **settings},
        "libraries": library_versions("onnxruntime", "onnx"),
    }
