"""Options of a variant for ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maas.domain.errors import InvalidInput
from maas.runtimes.base import LoadRequest
from maas.runtimes.onnx import OnnxRuntime
from tests.support.models.onnx import echo_model, echo_signature


def loaded(path: Path, **options: Any) -> OnnxRuntime:
    runtime = OnnxRuntime()
    files = {"model.onnx": echo_model(path / "echo.onnx", scale=3.0).read_bytes()}
    runtime.load(LoadRequest(files, echo_signature(), options=options))
    return runtime


@pytest.mark.parametrize("options", [{}, {"spinning": True}, {"arena": False, "prepacking": False}])
def test_options_do_not_change_outputs(tmp_path: Path, options: dict[str, bool]) -> None:
    rows = np.ones((2, 2), np.float32)
    assert np.array_equal(loaded(tmp_path, **options).predict({"x": rows})["y"], 3 * rows)


def test_options_reach_the_session(tmp_path: Path) -> None:
    session = loaded(tmp_path, arena=False, prepacking=False, spinning=True)._session
    options = session.get_session_options()
    assert options.enable_cpu_mem_arena is False
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"


@pytest.mark.parametrize(
    ("options", "words"),
    [({"speed": True}, "no option 'speed'"), ({"arena": "no"}, "arena must be true or false")],
)
def test_unknown_and_invalid_options_are_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        loaded(tmp_path, **options)
