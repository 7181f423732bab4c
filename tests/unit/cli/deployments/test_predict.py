"""Inputs and outputs of `maas predict`."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakes.iris_deployment import serve_iris
from tests.support.fakes.scripted_server import FakeServer
from tests.unit.cli.conftest import Maas


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (['{"x": [1, 2]}'], {"x": [1, 2]}),
        (["x=[1,2]", "name=ada", "n=3"], {"x": [1, 2], "name": "ada", "n": 3}),
        (["-f", "in.json"], {"x": [5]}),
    ],
)
def test_predict_takes_inputs_in_many_ways(
    maas: Maas, fake: FakeServer, words: list[str], sent: Any
) -> None:
    Path("in.json").write_text('{"x": [5]}')
    fake.answers("POST", "/predict/iris", {"y": 0.5})
    result = maas("predict", "iris", *words)
    assert result == (0, "Y\n0.5\n", "")
    assert fake.requests[0].json() == sent


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("width,length\n2,1\n4,3\n", [[1, 2], [3, 4]]),
        ("a,b\n1,2\n", [[1, 2]]),
    ],
)
def test_predict_takes_a_table_by_the_names_of_the_features(
    maas: Maas, fake: FakeServer, text: str, sent: Any
) -> None:
    serve_iris(fake)
    fake.answers("POST", "/predict/iris", {"label": [0, 1], "y": [0.5, 0.25]})
    Path("rows.csv").write_text(text)
    result = maas("predict", "iris", "-f", "rows.csv")
    assert fake.requests[-1].json() == {"x": sent}
    assert result.out.splitlines() == ["LABEL  Y", "0      0.5", "1      0.25"]


@pytest.mark.parametrize(
    "words",
    [
        ["x"],
        ["=1"],
        ["{"],
        ["-f", "none.json"],
        [],
        ["x=1", "-f", "in.json"],
        ["-f", "bad.csv"],
        ["-f", "latin.csv"],
        ["x=[1,NaN]"],
        ["x=[1"],
        ["x=1e400"],
        ["x=NaN"],
        ['x={"a": 1'],
    ],
)
def test_predict_refuses_invalid_inputs(maas: Maas, fake: FakeServer, words: list[str]) -> None:
    serve_iris(fake)
    Path("bad.csv").write_text("a,b\n1\n")
    Path("latin.csv").write_bytes(b"a,b\n\xff,1\n")
    result = maas("predict", "iris", *words)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: ")
    assert not any(request.method == "POST" for request in fake.requests)


def test_an_unknown_column_is_named_with_the_nearest_feature(maas: Maas, fake: FakeServer) -> None:
    serve_iris(fake)
    for header, message in (
        ("lenght,width", "column 'lenght' is unknown; did you mean 'length'?"),
        ("width,length,other", "column 'other' is unknown; expected length, width"),
        ("width", "column 'length' is missing"),
        ("width,width", "column 'width' is there twice"),
    ):
        values = ",".join("1" for _ in header.split(","))
        Path("rows.csv").write_text(f"{header}\n{values}\n")
        result = maas("predict", "iris", "-f", "rows.csv")
        assert (result.code, result.out) == (2, "")
        assert message in result.err
    assert not any(request.method == "POST" for request in fake.requests)


def test_a_batch_is_printed_one_row_per_line(maas: Maas, fake: FakeServer) -> None:
    serve_iris(fake)
    Path("rows.csv").write_text("length,width\n1,2\n3,4\n")
    fake.answers("POST", "/predict/iris", {"y": [373778.5, 1.0]})
    assert maas("predict", "iris", "-f", "rows.csv").out == "Y\n373,778\n1\n"


def test_a_long_list_is_not_printed_on_one_line(maas: Maas, fake: FakeServer) -> None:
    fake.answers("POST", "/predict/iris", {"scores": [i / 4 for i in range(600)]})
    lines = maas("predict", "iris", "x=1").out.splitlines()
    assert (len(lines), lines[0], lines[2]) == (601, "SCORES", "0.25")


def test_a_long_list_beside_other_outputs_is_shortened(maas: Maas, fake: FakeServer) -> None:
    fake.answers("POST", "/predict/iris", {"label": 3, "scores": [0.5] * 1000})
    _, row = maas("predict", "iris", "x=1").out.splitlines()
    assert row.endswith("0.5, … (1,000 in all)]") and len(row) < 100


def csv_rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_csv_has_a_header_and_a_row_per_input_row(maas: Maas, fake: FakeServer) -> None:
    serve_iris(fake)
    Path("rows.csv").write_text("length,width\n1,2\n3,4\n")
    outputs = {"y": [0.5, 1e-7], "name": ["a,b", "c"], "scores": [[0.1, 0.9], [0.25, 0.75]]}
    fake.answers("POST", "/predict/iris", outputs)
    assert csv_rows(maas("predict", "iris", "-f", "rows.csv", "-o", "csv").out) == [
        ["y", "name", "scores_0", "scores_1"],
        ["0.5", "a,b", "0.1", "0.9"],
        ["1e-07", "c", "0.25", "0.75"],
    ]


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ("x=[1,2]", {"y": 0.5}, [["y"], ["0.5"]]),
        ("x=[1,2]", {"scores": [0.5, 0.25]}, [["scores_0", "scores_1"], ["0.5", "0.25"]]),
        ("x=[[1,2],[3,4]]", {"y": [0.5, 0.25]}, [["y"], ["0.5"], ["0.25"]]),
    ],
)
def test_csv_tells_a_batch_from_one_row_by_its_inputs(
    maas: Maas, fake: FakeServer, inputs: str, outputs: Any, expected: Any
) -> None:
    fake.answers("POST", "/predict/iris", outputs)
    assert csv_rows(maas("predict", "iris", inputs, "-o", "csv").out) == expected
