"""Measuring with real processes, and how intervals and energy are made of what they say."""

from __future__ import annotations

import io
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maas.domain.errors import InferenceFailed, InvalidInput
from maas.domain.models import Task
from maas.lifecycle.optimize.measurement.candidate_process import CandidateProcess, answers_of
from maas.lifecycle.optimize.measurement.energy import EnergyMeter
from maas.lifecycle.optimize.measurement.measure import MeasurementPlan, sit
from maas.lifecycle.optimize.measurement.paired_runs import measurement_of, repeat_interval
from maas.lifecycle.optimize.measurement.worker_messages import packed, receive, send, unpacked
from maas.lifecycle.optimize.results import (
    Candidate,
    EvaluationRows,
    Measurement,
    from_json,
    to_json,
)
from tests.support.models.onnx import echo_model, echo_signature, slow_model

QUICK = MeasurementPlan(rounds=2, seconds=0.005, meter=EnergyMeter((), "none here"))
ROWS = EvaluationRows({"x": np.arange(80, dtype=np.float32).reshape(40, 2)}, None, Task.OTHER)


def candidate(path: Path, name: str = "c") -> Candidate:
    return Candidate(name, "onnx", {"model.onnx": path})


def test_a_slow_candidate_is_measured_as_slow_beside_the_original(tmp_path: Path) -> None:
    original = candidate(echo_model(tmp_path / "echo.onnx"), "original")
    slow = candidate(slow_model(tmp_path / "slow.onnx", size=200, rounds=4), "slow")
    runs = [sit(slow, original, ROWS, echo_signature(), QUICK) for _ in range(2)]
    found = measurement_of(slow, original, runs, how={})
    assert [s.batch for s in found.speeds] == [1, 8, 32]
    for speed in found.speeds:
        # Hundreds of times the work; any machine sees that.
        assert speed.p50_ratio.value > 3
        assert speed.rows_per_s_ratio.value < 1 / 3
        assert speed.calls >= 2 * QUICK.rounds * QUICK.least_calls
        assert speed.p99_ms and speed.p99_ms.value >= speed.p50_ms.value * 0.99
        assert speed.p50_ms.low <= speed.p50_ms.value <= speed.p50_ms.high
    assert found.file_bytes == (tmp_path / "slow.onnx").stat().st_size
    assert found.file_ratio == pytest.approx(
        found.file_bytes / (tmp_path / "echo.onnx").stat().st_size
    )
    assert found.resident_bytes > 20_000_000
    assert found.core_seconds_per_1000.value > 0
    assert (found.joules_per_1000 is None) == (not EnergyMeter.find().zones)
    assert from_json(to_json(found), Measurement) == found
    with pytest.raises(InvalidInput, match="one of 1, 8, 32; got 4"):
        found.at(4)


def test_a_model_of_one_row_is_measured_with_one_row(tmp_path: Path) -> None:
    only = candidate(echo_model(tmp_path / "echo.onnx"))
    signature = replace(echo_signature(), max_rows=1)
    found = sit(only, only, ROWS, signature, QUICK)
    assert [figures.size for figures in found.figures] == [1]


def test_a_process_has_the_answers_of_its_candidate_and_ends(tmp_path: Path) -> None:
    path = echo_model(tmp_path / "echo.onnx", scale=3.0)
    with CandidateProcess(candidate(path), echo_signature(), ROWS) as process:
        said = process.answers(ROWS.inputs)
        turn = process.turn(batch=8, seconds=0.0, least=5)
        state = process.state()
        number = process.pid
    assert len(turn["durations"]) == 5
    assert said["y"].tolist() == (3 * ROWS.inputs["x"]).tolist()
    assert state["resident"] > 20_000_000
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_what_does_not_load_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(InvalidInput, match="not a model that ONNX Runtime loads"):
        answers_of(candidate(broken), echo_signature(), ROWS)
    with pytest.raises(InferenceFailed, match="c: FileNotFoundError"):
        answers_of(candidate(tmp_path / "missing.onnx"), echo_signature(), ROWS)


def test_a_candidate_that_dies_takes_nobody_with_it(tmp_path: Path) -> None:
    path = echo_model(tmp_path / "echo.onnx")
    with CandidateProcess(candidate(path), echo_signature(), ROWS) as process:
        os.kill(process.pid, 9)
        with pytest.raises(InferenceFailed, match="was ended by signal 9"):
            process.turn(1, 0.0, 1)


def test_a_candidate_that_does_not_answer_in_time_is_ended(tmp_path: Path) -> None:
    path = echo_model(tmp_path / "echo.onnx")
    with CandidateProcess(candidate(path), echo_signature(), ROWS) as process:
        process.state()
        process.limit_s = 0.001  # a turn ends after 20,000 calls at the latest
        with pytest.raises(InferenceFailed, match="took over 0 s"):
            process.turn(1, 30.0, 1)


def test_rows_arrive_as_they_were_sent() -> None:
    given = {
        "x": np.arange(6, dtype=np.float32).reshape(3, 2),
        "text": np.array(["a", "ü", ""], dtype=object),
        "image": np.array([b"\xff\x00", b"", b"x"], dtype=object),
    }
    stream = io.BytesIO()
    send(stream, {"inputs": packed(given)})
    stream.seek(0)
    message = receive(stream)
    assert message is not None
    for name, array in unpacked(message["inputs"]).items():
        assert array.dtype == given[name].dtype
        assert array.tolist() == given[name].tolist()
    assert receive(stream) is None
    assert receive(io.BytesIO(b"\x00\x00\x00\x09half")) is None


@pytest.mark.parametrize(("count", "unlike"), [(2, 0.0), (4, 0.0), (8, 0.0), (12, 0.0), (8, 0.08)])
def test_a_repeat_falls_into_the_interval_of_the_first_in_99_of_100_cases(
    count: int, unlike: float
) -> None:
    """Also if one of twelve runs takes half as long again: of means, a quarter would not."""
    drawn = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        logs = drawn.normal(1.0, 0.02, (2, count)) + 0.5 * (drawn.random((2, count)) < unlike)
        first, second = np.exp(logs)
        found = repeat_interval(list(first))
        inside += found.low <= repeat_interval(list(second)).value <= found.high
    assert inside / 2000 > 0.984


def test_intervals_are_no_wider_than_they_must_be() -> None:
    drawn = np.random.default_rng(0)
    reach = []
    for _ in range(500):
        found = repeat_interval(list(np.exp(drawn.normal(1.0, 0.02, 8))))
        reach.append(math.log(found.high / found.low) / 2)
    # 99.5 % of Student's t, 7 degrees of freedom: 3.5; two medians of 8 differ by 0.58 of one.
    assert np.mean(reach) == pytest.approx(3.5 * 0.58 * 0.02, rel=0.06)


def test_one_run_has_no_interval() -> None:
    with pytest.raises(InvalidInput, match="at least two runs"):
        repeat_interval([1.0])


def zone(root: Path, name: str, energy: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(energy)
    (folder / "max_energy_range_uj").write_text("1000000000")
    return folder


def test_energy_is_the_packages_counters_also_when_one_wraps_around(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "5000000\n")
    second = zone(tmp_path, "intel-rapl:1", "999000000\n")
    zone(tmp_path, "intel-rapl:0:0", "1\n")  # part of a package, and counted there
    meter = EnergyMeter.find(tmp_path)
    assert meter.zones == (first, second)
    before = meter.read()
    (first / "energy_uj").write_text("7000000\n")
    (second / "energy_uj").write_text("1000000\n")
    assert meter.joules_since(before) == pytest.approx(2.0 + 2.0)


def test_a_machine_without_a_meter_says_so(tmp_path: Path) -> None:
    assert "shows no energy meter" in EnergyMeter.find(tmp_path).note
    zone(tmp_path, "intel-rapl:0", "not a number")
    assert "cannot be read" in EnergyMeter.find(tmp_path).note
