"""What each variant consists of and costs, as `maas models show` prints it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from maas.cli.common import emit, emit_table, size

if TYPE_CHECKING:
    from maas.client.answers import VersionDetails

MOST_LAYERS = 5
HEADINGS = (
    "variant", "parameters", "multiply-adds", "size", "memory", "core-s/1,000", "cost/1,000",
)  # fmt: skip


def emit_profiles(details: VersionDetails, core_hour: float | None) -> None:
    """A table of all variants, their slowest and largest layers, and how to get what is missing.

    `core_hour` is the price of an hour of one core, for the cost of 1,000 answers.
    """
    profiles = {
        e.variant: e.values for e in details.evidence if e.kind == "profile" and e.variant
    }  # the newest of each variant, for they come oldest first
    variants = [v.name for v in details.version.manifest.variants]
    known = [(name, profiles[name]) for name in variants if name in profiles]
    if known:
        emit("")
        emit_table(HEADINGS, (_line(name, profile, core_hour) for name, profile in known))
    for name, profile in known:
        _emit_layers(name, profile)
    absent = [name for name in variants if name not in profiles]
    if absent:
        ref = f"{details.version.model}:{details.version.number}"
        emit(
            f"\nno profile (parameters, multiply-adds, time by layer, memory, cost) of "
            f"{', '.join(absent)}: `maas optimize {ref}` measures it"
        )


def _line(name: str, profile: Mapping[str, Any], core_hour: float | None) -> tuple[object, ...]:
    seconds = _number(profile, "core_seconds_per_1000")
    cost = _number(profile, "cost_per_1000")
    if core_hour is not None and seconds is not None:
        cost = seconds / 3600 * core_hour
    return (
        name,
        _count(profile, "parameters"),
        _count(profile, "multiply_adds"),
        size(_number(profile, "file_bytes")),
        size(_number(profile, "memory_bytes")),
        seconds,
        cost,
    )


def _emit_layers(name: str, profile: Mapping[str, Any]) -> None:
    slowest = [
        (line.get("name"), line.get("op"), _share(line), _number(line, "ms"))
        for line in _lines(profile, "slowest")
    ]
    if slowest:
        emit("")
        emit_table((f"{name}: slowest layer", "operator", "share", "ms"), slowest)
    largest = [
        (
            line.get("name"),
            line.get("op"),
            size(_number(line, "bytes")),
            _share(line) if "share" in line else None,
            _count(line, "parameters"),
            _count(line, "multiply_adds"),
        )
        for line in _lines(profile, "largest")
    ]
    if largest:
        head = (
            f"{name}: largest layer",
            "operator",
            "size",
            "share",
            "parameters",
            "multiply-adds",
        )
        emit("")
        emit_table(head, largest)


def _lines(profile: Mapping[str, Any], key: str) -> Iterable[Mapping[str, Any]]:
    """Evidence is whatever its publisher sent; what is no layer is not shown as one."""
    lines = profile.get(key)
    given = lines[:MOST_LAYERS] if isinstance(lines, list) else []
    return [line for line in given if isinstance(line, dict)]


def _number(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _count(values: Mapping[str, Any], key: str) -> str | None:
    value = _number(values, key)
    return None if value is None else f"{value:,}"


def _share(line: Mapping[str, Any]) -> str | None:
    share = _number(line, "share")
    return None if share is None else f"{share * 100:.1f} %"
