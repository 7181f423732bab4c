"""What several compilers of JSON schemas need to know of one.

Keywords: https://json-schema.org/draft/2020-12/json-schema-validation
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
OF_TYPES: dict[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "integer": BOUNDS | {"format"},
    "number": BOUNDS | {"format"},
    "boolean": set(),
    "null": set(),
}
"""Common keywords that say something about values of one type only."""
REFERENCE = re.compile(r"#/(\$defs|definitions)/([A-Za-z0-9_.-]+)")

_NAMED = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
_VALUES = {"enum", "const", "default", "examples", "example"}
"""Keywords whose names, and whose values, are the caller's and no schemas."""


def each_schema(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """`value`, a schema or what holds some, with `change` made to every schema, the inner first."""
    if isinstance(value, list):
        return [each_schema(part, change) for part in value]
    if not isinstance(value, dict):
        return value
    made: dict[str, Any] = {}
    for key, inner in value.items():
        if key in _VALUES:
            made[key] = inner
        elif key in _NAMED and isinstance(inner, dict):
            made[key] = {name: each_schema(part, change) for name, part in inner.items()}
        else:
            made[key] = each_schema(inner, change)
    return change(made)


def kinds(schema: dict[str, Any]) -> list[Any]:
    """The types that `schema` names."""
    named = schema.get("type", [])
    return named if isinstance(named, list) else [named]


@dataclass(frozen=True)
class Interval:
    """Where the numbers of a schema lie."""

    low: float = -math.inf
    high: float = math.inf
    is_open_below: bool = False
    """Whether `low` itself is out."""
    is_open_above: bool = False

    @classmethod
    def of(cls, schema: dict[str, Any]) -> Interval:
        """Raises ValueError if a bound is no number."""
        low, is_open_below = max(_bounds(schema, "minimum", "exclusiveMinimum", -math.inf))
        high, is_closed_above = min(
            (value, not is_open)
            for value, is_open in _bounds(schema, "maximum", "exclusiveMaximum", math.inf)
        )
        return cls(low, high, is_open_below, not is_closed_above)

    @property
    def keywords(self) -> dict[str, float]:
        """What says this in a schema."""
        below = "exclusiveMinimum" if self.is_open_below else "minimum"
        above = "exclusiveMaximum" if self.is_open_above else "maximum"
        return {key: value for key, value in ((below, self.low), (above, self.high))
                if math.isfinite(value)}  # fmt: skip

    @property
    def negated(self) -> Interval:
        return Interval(-self.high, -self.low, self.is_open_above, self.is_open_below)

    @property
    def whole(self) -> Interval:
        """The same of integers, with bounds that are in."""
        low, high = self.low, self.high
        if math.isfinite(low):
            low = math.floor(low) + 1 if self.is_open_below else math.ceil(low)
        if math.isfinite(high):
            high = math.ceil(high) - 1 if self.is_open_above else math.floor(high)
        return Interval(low, high)

    @property
    def above_0(self) -> Interval | None:
        """What of it is larger than 0."""
        if self.high <= 0:
            return None
        return self if self.low > 0 else Interval(0, self.high, True, self.is_open_above)

    @property
    def has_0(self) -> bool:
        below = self.low < 0 or (self.low == 0 and not self.is_open_below)
        return below and (self.high > 0 or (self.high == 0 and not self.is_open_above))


def _bounds(
    schema: dict[str, Any], closed: str, opened: str, none: float
) -> list[tuple[float, bool]]:
    """With whether the bound itself is out."""
    found = [(none, False)]
    for keyword in (closed, opened):
        value = schema.get(keyword)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
            raise ValueError(f"{keyword} must be a number of usual size")
        found.append((value, keyword == opened))
    return found


def repeated(item: str, comma: str, low: int, high: int | None, *, is_first: bool = True) -> str:
    """An expression of a grammar: `item` so many times with commas between them, and before them
    unless they come first."""
    if not is_first:
        return f"({comma} {item}){_times(low, high)}"
    more = f"{item} ({comma} {item}){_times(max(low - 1, 0), high and high - 1)}"
    return more if low else f"({more})?"


def _times(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"
