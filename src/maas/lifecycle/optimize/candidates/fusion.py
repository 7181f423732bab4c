"""Graph optimizations of ONNX Runtime, applied once instead of at every load."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, Literal

from maas.domain.errors import InvalidInput
from maas.domain.machine import library_versions

Level = Literal["basic", "extended", "all"]


def optimize_graph(source: Path, target: Path, level: Level) -> dict[str, Any]:
    """Writes the optimized graph, and returns how it was made.

    `basic` and `extended` (fused operators) load on every machine; `all` also chooses memory
    layouts for this processor. Raises InvalidInput if the file does not load.
    """
    import onnxruntime as ort  # noqa: PLC0415

    levels = {
        "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }
    options = ort.SessionOptions()
    options.graph_optimization_level = levels[level]
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - the library raises a dozen unrelated classes
        text = " ".join(str(error).split())[:300]
        raise InvalidInput(f"onnxruntime cannot optimize {source.name}: {text}") from None
    how = {
        "by": "onnxruntime.SessionOptions.optimized_model_filepath",
        "settings": {"level": level},
        "libraries": library_versions("onnxruntime"),
    }
    if level == "all":
        how["processor"] = platform.machine()
    return how
