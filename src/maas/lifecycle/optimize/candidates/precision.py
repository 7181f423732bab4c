"""Weights with 16 bits instead of 32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.machine import library_versions
from maas.lifecycle.optimize.subject import NotApplicable

BFLOAT16 = (
    "ONNX Runtime has no BF16 kernels for processors, and PyTorch programs are not served: see "
    "torchao"
)
CLASSICAL = "ai.onnx.ml"
"""The domain of ONNX's operators for trees, linear models and vectors."""


def half_precision(source: Path, target: Path) -> dict[str, Any]:
    """Writes a graph with FP16 weights (IEEE 754 binary16), which is half as large.

    Inputs and outputs keep their datatypes. If the processor has no FP16 kernels, ONNX Runtime
    converts and computes in FP32. Returns how it was made. Raises NotApplicable for trees and other
    classical models, InvalidInput for a graph that cannot be converted.
    """
    import onnx  # noqa: PLC0415  (0.3 s)
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415

    model = onnx.load(source)
    if any(node.domain == CLASSICAL for node in model.graph.node):
        raise NotApplicable("trees and other operators of ai.onnx.ml support 32 bits only")
    try:
        converted = convert_float_to_float16(model, keep_io_types=True)
    except (ValueError, RuntimeError, KeyError, IndexError, AttributeError) as error:
        raise InvalidInput(f"the graph cannot be converted to FP16: {error}") from None
    onnx.save_model(converted, target)
    return {
        "by": "onnxruntime.transformers.float16.convert_float_to_float16",
        "settings": {"keep_io_types": True},
        "libraries": library_versions("onnxruntime", "onnx"),
    }
