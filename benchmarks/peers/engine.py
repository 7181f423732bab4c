"""The model of all Python peers: onnxruntime with one thread, loaded once per process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

OPTIONS: dict[str, Any] = json.loads(os.environ.get("BENCH_OPTIONS", "{}"))
"""The configuration under test, an item of `Peer.grid`."""

MODELS = Path(os.environ.get("BENCH_MODELS", "."))


def load(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Function from rows [n, ...] float32 to the model's output [n, k] float32."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(
        str(MODELS / f"{name}.onnx"), settings, providers=["CPUExecutionProvider"]
    )
    source = session.get_inputs()[0].name
    outputs = [session.get_outputs()[0].name]
    run = session.run
    return lambda rows: run(outputs, {source: rows})[0]
