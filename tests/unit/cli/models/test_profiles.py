"""The part of `maas models show` about complexity and cost of variants."""

from __future__ import annotations

from typing import Any

import pytest

from maas.cli.models.profiles import emit_profiles
from maas.client.answers import VersionDetails
from maas.domain.models import Evidence, File, Manifest, Task, Variant, Version
from maas.domain.signature import Signature, TensorSpec

FILE = File("model.onnx", "0" * 64, 10)


def details(*profiles: tuple[str, dict[str, Any]]) -> VersionDetails:
    signature = Signature(
        (TensorSpec("x", "FP32", (1,)),), (TensorSpec("y", "FP32", (1,)),), example={"x": [1.0]}
    )
    variants = tuple(Variant(name, "onnx", (FILE,)) for name in ("onnx", "onnx-int8"))
    manifest = Manifest("digits", Task.OTHER, signature, variants)
    evidence = tuple(Evidence("profile", values, {}, variant=name) for name, values in profiles)
    return VersionDetails(Version("digits", 3, manifest, 0.0), "d", evidence)


WHOLE = {
    "parameters": 37_000,
    "multiply_adds": 1_250_000,
    "file_bytes": 150_000,
    "memory_bytes": 70_000_000,
    "core_seconds_per_1000": 0.36,
    "slowest": [{"name": "conv1", "op": "Conv", "share": 0.715, "ms": 0.04}],
    "largest": [{"name": "fc", "op": "Gemm", "bytes": 4096, "parameters": 1024}],
}


def test_every_variant_has_a_row_and_its_layers(capsys: pytest.CaptureFixture[str]) -> None:
    emit_profiles(details(("onnx", WHOLE), ("onnx-int8", {"parameters": 5})), 0.05)
    output = capsys.readouterr().out
    assert "37,000" in output
    assert "1,250,000" in output
    assert "67 MiB" in output
    # 0.36 core-seconds of 3,600 to the hour, at 0.05 for the hour.
    assert "5e-6" in output
    assert "71.5 %" in output
    assert "no profile" not in output


def test_a_variant_without_a_profile_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    emit_profiles(details(("onnx", WHOLE)), None)
    output = capsys.readouterr().out
    assert "of onnx-int8: `maas optimize digits:3` measures it" in output


def test_the_newest_profile_counts(capsys: pytest.CaptureFixture[str]) -> None:
    emit_profiles(details(("onnx", {"parameters": 1}), ("onnx", {"parameters": 22_222})), None)
    assert "22,222" in capsys.readouterr().out


def test_evidence_of_any_form_is_tolerated(capsys: pytest.CaptureFixture[str]) -> None:
    odd = {"parameters": "many", "slowest": [1, {"name": None, "share": "x"}], "largest": {"a": 1}}
    emit_profiles(details(("onnx", odd), ("torch", {})), 1.0)
    assert "ONNX: SLOWEST LAYER" in capsys.readouterr().out
