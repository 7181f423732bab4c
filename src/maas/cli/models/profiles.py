"""Size, memory, time and cost of each variant, as `maas models show` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from maas.cli.output import emit, emit_table, size
from maas.domain.numbers import format_number

if TYPE_CHECKING:
    from maas.client.answers import VersionDetails

MAX_LAYERS = 5
HEADINGS = (
    "variant", "parameters", "multiply-adds", "size", "memory", "core-s/1,000", "cost/1,000",
)  # fmt: skip


def emit_profiles(details: VersionDetails, core_hour: float | None) -> None:
    """Print a table of all variants, their slowest and largest layers, and a hint for those without
    a profile.

    `core_hour` is the price of one core for an hour, for the cost of 1,000 rows.
    """
    profiles = {
        e.variant: e.values for e in details.evidence if e.kind == "profile" and e.variant
    }  # the newest profile of each variant: they come oldest first
    variants = [variant.name for variant in details.version.variants]
    profiled = [(name, profiles[name]) for name in variants if name in profiles]
    if profiled:
        emit("")
        emit_table(HEADINGS, (_line(name, profile, core_hour) for name, profile in profiled))
    for name, profile in profiled:
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
        _text(seconds),
        _text(cost),
    )


def _emit_layers(name: str, profile: Mapping[str, Any]) -> None:
    slowest = [
        (line.get("name"), line.get("op"), _share(line), _text(_number(line, "ms")))
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
    """The layers under `key`; anything else is skipped, because publishers send any JSON."""
    lines = profile.get(key)
    if not isinstance(lines, list):
        return []
    return [line for line in lines[:MAX_LAYERS] if isinstance(line, dict)]


def _number(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: float | None) -> str | None:
    return None if value is None else format_number(value)


def _count(values: Mapping[str, Any], key: str) -> str | None:
    return _text(_number(values, key))


def _share(line: Mapping[str, Any]) -> str | None:
    share = _number(line, "share")
    return None if share is None else f"{share * 100:.1f} %"
