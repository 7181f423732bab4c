"""Measurement with real processes, intervals of repeats, and energy counters."""

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
from maas.lifecycle.optimize.measurement.candidate_process import (
    CandidateProcess,
    isolated_outputs_of,
)
from maas.lifecycle.optimize.measurement.energy import EnergyMeter
from maas.lifecycle.optimize.measurement.measure import MeasurementPlan, measure_pair
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


def test_a_slow_candidate_is_measured_as_slower_than_the_original(tmp_path: Path) -> None:
    original = candidate(echo_model(tmp_path / "echo.onnx"), "original")
    slow = candidate(slow_model(tmp_path / "slow.onnx", size=200, rounds=4), "slow")
    runs = [measure_pair(slow, original, ROWS, echo_signature(), QUICK) for _ in range(2)]
    measurement = measurement_of(slow, original, runs, how={})
    assert [s.batch for s in measurement.speeds] == [1, 8, 32]
    for speed in measurement.speeds:
        # Hundreds of times the work, which shows on any machine.
        assert speed.p50_ratio.value > 3
        assert speed.rows_per_s_ratio.value < 1 / 3
        assert speed.calls >= 2 * QUICK.rounds * QUICK.least_calls
        assert speed.p99_ms and speed.p99_ms.value >= speed.p50_ms.value * 0.99
        assert speed.p50_ms.low <= speed.p50_ms.value <= speed.p50_ms.high
    assert measurement.file_bytes == (tmp_path / "slow.onnx").stat().st_size
    assert measurement.file_ratio == pytest.approx(
        measurement.file_bytes / (tmp_path / "echo.onnx").stat().st_size
    )
    assert measurement.resident_bytes > 20_000_000
    assert measurement.core_seconds_per_1000.value > 0
    assert (measurement.joules_per_1000 is None) == (not EnergyMeter.find().zones)
    assert from_json(to_json(measurement), Measurement) == measurement
    with pytest.raises(InvalidInput, match="one of 1, 8, 32; got 4"):
        measurement.at(4)


def test_a_model_of_one_row_is_measured_with_one_row(tmp_path: Path) -> None:
    only = candidate(echo_model(tmp_path / "echo.onnx"))
    signature = replace(echo_signature(), max_rows=1)
    run = measure_pair(only, only, ROWS, signature, QUICK)
    assert [figures.size for figures in run.figures] == [1]


def test_a_process_returns_outputs_and_exits(tmp_path: Path) -> None:
    path = echo_model(tmp_path / "echo.onnx", scale=3.0)
    with CandidateProcess(candidate(path), echo_signature(), ROWS) as process:
        outputs = process.outputs(ROWS.inputs)
        turn = process.turn(batch=8, seconds=0.0, least=5)
        state = process.state()
        pid = process.pid
    assert len(turn["durations"]) == 5
    assert outputs["y"].tolist() == (3 * ROWS.inputs["x"]).tolist()
    assert state["resident"] > 20_000_000
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_candidate_that_does_not_load_is_reported_with_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(InvalidInput, match="ONNX Runtime does not load this model"):
        isolated_outputs_of(candidate(broken), echo_signature(), ROWS)
    with pytest.raises(InferenceFailed, match="c: FileNotFoundError"):
        isolated_outputs_of(candidate(tmp_path / "missing.onnx"), echo_signature(), ROWS)


def test_a_crash_of_a_candidate_is_an_error(tmp_path: Path) -> None:
    path = echo_model(tmp_path / "echo.onnx")
    with CandidateProcess(candidate(path), echo_signature(), ROWS) as process:
        os.kill(process.pid, 9)
        with pytest.raises(InferenceFailed, match="was ended by signal 9"):
            process.turn(1, 0.0, 1)


def test_a_candidate_that_times_out_is_killed(tmp_path: Path) -> None:
    path = echo_model(tmp_path / "echo.onnx")
    with CandidateProcess(candidate(path), echo_signature(), ROWS) as process:
        process.state()
        process.timeout_s = 0.001  # a turn stops after at most 20,000 calls
        with pytest.raises(InferenceFailed, match="took over 0 s"):
            process.turn(1, 30.0, 1)


def test_messages_preserve_arrays() -> None:
    arrays = {
        "x": np.arange(6, dtype=np.float32).reshape(3, 2),
        "text": np.array(["a", "ü", ""], dtype=object),
        "image": np.array([b"\xff\x00", b"", b"x"], dtype=object),
    }
    stream = io.BytesIO()
    send(stream, {"inputs": packed(arrays)})
    stream.seek(0)
    message = receive(stream)
    assert message is not None
    for name, array in unpacked(message["inputs"]).items():
        assert array.dtype == arrays[name].dtype
        assert array.tolist() == arrays[name].tolist()
    assert receive(stream) is None
    assert receive(io.BytesIO(b"\x00\x00\x00\x09half")) is None


@pytest.mark.parametrize(
    ("count", "outliers"), [(2, 0.0), (4, 0.0), (8, 0.0), (12, 0.0), (8, 0.08)]
)
def test_an_interval_contains_99_percent_of_repeats(count: int, outliers: float) -> None:
    """Even if one run in twelve takes 1.5 times as long, with which a quarter of means fail."""
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        logs = random.normal(1.0, 0.02, (2, count)) + 0.5 * (random.random((2, count)) < outliers)
        first, second = np.exp(logs)
        interval = repeat_interval(list(first))
        inside += interval.low <= repeat_interval(list(second)).value <= interval.high
    assert inside / 2000 > 0.984


def test_intervals_are_no_wider_than_necessary() -> None:
    random = np.random.default_rng(0)
    reach = []
    for _ in range(500):
        interval = repeat_interval(list(np.exp(random.normal(1.0, 0.02, 8))))
        reach.append(math.log(interval.high / interval.low) / 2)
    # The quantile of Student's t is 3.5, and medians of 8 differ by 0.58 standard deviations.
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


def test_energy_is_the_sum_of_package_counters_that_may_wrap_around(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "5000000\n")
    second = zone(tmp_path, "intel-rapl:1", "999000000\n")
    zone(tmp_path, "intel-rapl:0:0", "1\n")  # part of a package, whose counter includes it
    meter = EnergyMeter.find(tmp_path)
    assert meter.zones == (first, second)
    before = meter.read()
    (first / "energy_uj").write_text("7000000\n")
    (second / "energy_uj").write_text("1000000\n")
    assert meter.joules_since(before) == pytest.approx(2.0 + 2.0)


def test_a_missing_energy_meter_is_explained(tmp_path: Path) -> None:
    assert "has no energy meter" in EnergyMeter.find(tmp_path).note
    zone(tmp_path, "intel-rapl:0", "not a number")
    assert "cannot be read" in EnergyMeter.find(tmp_path).note
