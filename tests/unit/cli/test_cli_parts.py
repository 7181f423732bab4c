"""Pure functions of the commands."""

from __future__ import annotations

import pytest

from maas.cli.deployments.deploy import split
from maas.cli.deployments.state import targets_text
from maas.cli.output import size
from maas.cli.server.logs import new_lines
from maas.domain.deployments import Target


@pytest.mark.parametrize(
    ("before", "now", "fresh"),
    [
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "b"], ["b", "c", "d"], ["c", "d"]),
        (["a", "b"], ["x", "y"], ["x", "y"]),
        (["a", "b"], ["a", "b"], []),
        ([], ["a"], ["a"]),
        (["a", "b", "a"], ["b", "a", "c"], ["c"]),
    ],
)
def test_only_new_lines_of_a_growing_log_are_shown(
    before: list[str], now: list[str], fresh: list[str]
) -> None:
    assert new_lines(before, now) == fresh


def test_shares_keep_their_proportion() -> None:
    present = [Target(1, "onnx", 300), Target(2, "onnx", 100)]
    shared = split(present, Target(3, "onnx"), 20)
    assert [(t.version, t.weight) for t in shared] == [(1, 600), (2, 200), (3, 200)]
    assert targets_text(shared) == "1/onnx 60%, 2/onnx 20%, 3/onnx 20%"


def test_an_existing_target_gets_the_new_share() -> None:
    present = [Target(1, "onnx", 900), Target(2, "onnx", 100)]
    assert [(t.version, t.weight) for t in split(present, Target(2, "onnx"), 50)] == [
        (1, 500),
        (2, 500),
    ]
    assert split([Target(1, "onnx")], Target(1, "onnx"), 10) == [Target(1, "onnx", 1000)]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (2048, "2 KiB"), (5 << 30, "5.0 GiB"), (None, "-")]
)
def test_sizes_have_binary_units(count: int | None, text: str) -> None:
    assert size(count) == text
