"""Errors look the same in every command: `error: …` on stderr, exit code 2 for invalid usage."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from maas.cli.commands import COMMANDS, SUBCOMMANDS
from maas.lifecycle.job_folder import JobFolder
from tests.support.fakes.iris_deployment import serve_iris
from tests.support.fakes.scripted_server import FakeServer
from tests.unit.cli.conftest import CommandResult, Maas

ALL = [
    *((name,) for name in COMMANDS),
    *((name, sub) for name, subs in SUBCOMMANDS.items() for sub in subs),
]


def assert_usage_error(result: CommandResult, words: tuple[str, ...], *parts: str) -> None:
    """One line with the error, one with the hint, and nothing on stdout."""
    assert (result.code, result.out) == (2, "")
    message, hint = result.err.splitlines()
    assert message.startswith("error: ") and message[7:8] == message[7:8].lower()
    assert hint == f"Try 'maas {' '.join(words)}'."
    for part in parts:
        assert part in message


@pytest.mark.parametrize("picture", ["nowhere/x.svg", "x.pdf", "x"])
def test_a_picture_is_checked_before_anything_is_computed(
    maas: Maas, fake: FakeServer, picture: str
) -> None:
    serve_iris(fake)
    result = maas("explain", "iris", "x=[1,2]", "--picture", picture)
    assert (result.code, result.out) == (2, "") and result.err.startswith("error: ")
    assert picture in result.err
    assert [r for r in fake.requests if r.path.startswith("/explain")] == []


def test_a_file_that_cannot_be_written_is_one_line(
    maas: Maas, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every OSError of a command ends as its path and reason, not as a traceback."""

    def full(*ignored: object, **also: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")

    monkeypatch.setattr("maas.cli.deployments.predict.read_inputs", full)
    result = maas("predict", "iris", "x=1")
    assert result == (1, "", "error: report.html: No space left on device\n")


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_an_unknown_option_is_a_usage_error(maas: Maas, words: tuple[str, ...]) -> None:
    result = maas(*words, "--nosuch")
    assert_usage_error(result, (*words, "--help"), "--nosuch")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("keys create ada --scope call,raed", ("--scope", "'raed'", "did you mean 'read'?")),
        ("keys create ada --scope ,", ("--scope", "call, read, write, admin")),
        ("deploy iris --objective fast", ("--objective", "latency, throughput", "'fast'")),
        ("deploy iris --weight 0", ("--weight must be", "1; got '0'")),
        ("deploy iris --weight 100", ("--weight must be", "99; got '100'")),
        ("deploy iris --weight many", ("--weight", "integer; got 'many'")),
        ("deploy iris --weight 10", ("--weight 10 needs --version", "traffic of iris")),
        ("deploy iris --weight 10 --objective latency", ("--objective", "--weight")),
        ("deploy iris --replicas -1", ("--replicas",)),
        ("deploy iris --version 0", ("--version",)),
        ("deploy iris --wait -1", ("--wait",)),
        ("optimize iris --objective fast", ("--objective", "memory", "'fast'")),
        ("optimize iris --runs 1", ("--runs",)),
        ("optimize", ("expected a model",)),
        ("build", ("expected a recipe",)),
        ("publish", ("expected an ONNX file",)),
        ("publish a.onnx --task clasification", ("--task", "'clasification'")),
        ("publish a.onnx --example {", ("--example must be JSON",)),
        ("predict iris", ("inputs are missing", "maas predict iris")),
        ("predict iris x", ("NAME=VALUE", "'x'")),
        ("predict iris x=1 -f rows.json", ("--file",)),
        ("predict iris x=1 -o yaml", ("--output", "table, json, csv", "'yaml'")),
        ("explain iris x=1 --samples 1", ("--samples", "64")),
        ("bench iris --report x.pdf", ("--report", ".html or .svg", "x.pdf")),
        ("up --port 99999", ("--port", "65535")),
        ("logs control -n 0", ("--lines",)),
        ("models -o yaml", ("--output", "table, json", "'yaml'")),
        ("predict", ("argument is missing: NAME",)),
        ("chat", ("argument is missing: NAME",)),
        ("run", ("argument is missing: RECIPE",)),
    ],
)
def test_an_invalid_value_is_a_usage_error(
    maas: Maas, fake: FakeServer, words: str, parts: tuple[str, ...]
) -> None:
    serve_iris(fake)
    arguments = words.split()
    command = arguments[:2] if " ".join(arguments[:2]) == "keys create" else arguments[:1]
    assert_usage_error(maas(*arguments), (*command, "--help"), *parts)
    assert not any(request.method != "GET" for request in fake.requests)


def test_an_unknown_job_is_answered_with_the_nearest(maas: Maas, home: Path) -> None:
    job = JobFolder.create(home / "jobs", "build", "iris", recipe={}, directory=".").path.name
    for words in (("build", "--resume"), ("publish", "--job"), ("optimize", "--resume")):
        result = maas(*words, job[:-1])
        assert (result.code, result.out) == (3, "")
        assert result.err.endswith(f"did you mean '{job}'?\n")


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        ("rollbak iris", "rollback"),
        ("model", "models"),
        ("keys crate", "create"),
        ("jobs shw", "show"),
        ("deploy iris --replica 2", "--replicas"),
    ],
)
def test_a_misspelled_word_is_answered_with_the_nearest(
    maas: Maas, words: str, suggestion: str
) -> None:
    result = maas(*words.split())
    assert (result.code, result.out) == (2, "")
    assert "did you mean" in result.err and suggestion in result.err
