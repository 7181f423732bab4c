"""Finished steps are kept, unfinished ones leave nothing, and a full disk is reported."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from maas.domain.errors import InferenceFailed, OutOfSpace
from maas.lifecycle.optimize.ledger import Ledger
from maas.lifecycle.optimize.measurement.outputs import load_outputs, save_outputs
from maas.lifecycle.optimize.results import Candidate, CandidateResult


def finished(ledger: Ledger, name: str = "small") -> Candidate:
    with ledger.stage() as folder:
        file = folder / "model.onnx"
        file.write_bytes(b"graph")
        candidate = Candidate(name, "onnx", {"model.onnx": file}, {"arena": False}, {"by": "us"}, 2)
        save_outputs(folder, {"y": np.arange(3)})
        return ledger.finish(candidate)


def test_a_finished_candidate_can_be_read_again(tmp_path: Path) -> None:
    candidate = finished(Ledger(tmp_path, "a"))
    again = Ledger(tmp_path, "a").candidate("small")
    assert again == candidate
    assert candidate.files["model.onnx"].read_bytes() == b"graph"
    outputs = load_outputs(candidate)
    assert outputs is not None and outputs["y"].tolist() == [0, 1, 2]
    assert candidate.threads == 2 and candidate.options == {"arena": False}


def test_an_unfinished_candidate_leaves_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "a")
    with pytest.raises(RuntimeError), ledger.stage() as folder:
        (folder / "model.onnx").write_bytes(b"half")
        raise RuntimeError("killed")
    assert ledger.candidate("small") is None
    assert not (tmp_path / "staging").exists()


def test_another_fingerprint_discards_everything(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "a")
    finished(ledger)
    ledger.save_skipped("other", "no reason")
    ledger.save_result(CandidateResult("small", "onnx", {}))
    fresh = Ledger(tmp_path, "b")
    assert fresh.candidate("small") is None
    assert fresh.skipped("other") is None
    assert fresh.result("small") is None


def test_reasons_and_results_are_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "a")
    ledger.save_skipped("other", "no products")
    ledger.save_result(CandidateResult("small", "onnx", {"by": "us"}, threads=2))
    assert Ledger(tmp_path, "a").skipped("other") == "no products"
    assert Ledger(tmp_path, "a").result("small") == CandidateResult(
        "small", "onnx", {"by": "us"}, threads=2
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_out_of_space_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    ledger = Ledger(tmp_path, "a")
    with pytest.raises(OutOfSpace, match="--resume"), ledger.stage() as folder:
        (folder / "model.onnx").write_bytes(b"half")
        raise OSError(number, "full")
    assert not (tmp_path / "staging").exists()


def test_a_full_disk_is_detected_behind_the_error_of_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path, "a")
    with pytest.raises(InferenceFailed), ledger.stage():
        raise InferenceFailed("another problem")
    monkeypatch.setattr("maas.lifecycle.optimize.ledger.os.fsync", _full)
    with pytest.raises(OutOfSpace), ledger.stage():
        raise InferenceFailed("file write failed")


def _full(handle: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
