"""Errors of the command line: one line on stderr, and an exit code.

Every error starts with `error: `. A usage error is followed by a hint at the command's help.
"""

from __future__ import annotations

import re

import typer

from maas.cli import commands as codes
from maas.domain.errors import (
    Conflict,
    Forbidden,
    InferenceFailed,
    InvalidInput,
    MaasError,
    NotFound,
    Unauthenticated,
    Unavailable,
    UnsafeArtifact,
)

TyperUsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The error of Typer's parser, which Typer does not export."""

_CODES: tuple[tuple[type[MaasError], int], ...] = (
    (NotFound, codes.NOT_FOUND),
    (Unauthenticated, codes.AUTH),
    (Forbidden, codes.AUTH),
    (Conflict, codes.CONFLICT),
    (Unavailable, codes.UNAVAILABLE),
    (UnsafeArtifact, codes.FAILED),
    (InferenceFailed, codes.FAILED),
    (InvalidInput, codes.USAGE),
)
_INVALID = re.compile(r"Invalid value for (?P<names>.+?): (?P<reason>.*)", re.DOTALL)
_CHOICE = re.compile(r"Value error, (?P<value>'.*') is not one of (?P<choices>.*)")
_MISSING = re.compile(r"Missing (?P<kind>\w+) (?P<name>.+?)\.")


def exit_code(error: MaasError) -> int:
    """The exit code for `error`: that of its nearest listed class, else 1."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), codes.FAILED)


def os_error_text(error: OSError) -> str:
    """A file's error as `path: reason`, without the number of the error."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def usage_message(error: Exception) -> str:
    """The message of an error of Typer's parser, in the style of our own messages."""
    format_message = getattr(error, "format_message", error.__str__)
    text = " ".join(str(format_message()).split()).rstrip(".")
    if match := _INVALID.fullmatch(text):
        expectation = _expectation(match["reason"])
        value = "" if "; got " in expectation else _invalid_value(error)
        return f"{_option_name(match['names'])} {expectation}{value}"
    if match := _MISSING.match(text + "."):
        kind = "an option" if match["kind"] == "option" else "an argument"
        name = match["name"].strip("'")
        return f"{kind} is missing: {name if name.startswith('-') else name.upper()}"
    text = text.replace(". Did you mean", "; did you mean")
    text = re.sub(r"^No such (\w+):? ", r"there is no \1 ", text)
    text = re.sub(r" \(Possible options: (.*)\)$", r"; did you mean \1?", text)
    return text[:1].lower() + text[1:]


def help_hint(error: Exception, command: str) -> str:
    """`Try 'maas deploy --help'.`, with the parser's command if the error names one."""
    context = getattr(error, "ctx", None)
    path = str(getattr(context, "command_path", "") or command)
    return f"Try '{re.sub(r' {.*?}', '', path)} --help'."


def _option_name(names: str) -> str:
    """`'--output' / '-o'` as `--output`; `'name'`, an argument, as `NAME`."""
    first = names.split(" / ")[0].strip("'")
    return first if first.startswith("-") else first.upper().strip("{}[]")


def _invalid_value(error: Exception) -> str:
    """`; got '200'`: the value that pydantic, which Typer uses, has rejected."""
    errors = getattr(error.__cause__, "errors", None)
    return f"; got {errors()[0]['input']!r}" if errors else ""


def _expectation(reason: str) -> str:
    """What was expected, after the name of an option."""
    if match := _CHOICE.fullmatch(reason):
        choices = match["choices"].replace("'", "")
        return f"must be one of {choices}; got {match['value']}"
    reason = reason.removeprefix("Value error, ")
    reason = reason.partition(", unable to parse")[0]
    if reason.startswith("Input should be"):
        return "must be" + reason.removeprefix("Input should be")
    return f"is invalid: {reason[:1].lower()}{reason[1:]}"
