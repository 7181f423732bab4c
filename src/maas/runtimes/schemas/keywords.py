"""JSON Schema keywords, for all compilers of schemas to grammars.

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
"""Common keywords by the only type of values that they apply to."""
REFERENCE = re.compile(r"#/(\$defs|definitions)/([A-Za-z0-9_.-]+)")

_MAPS = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}
"""Keywords whose values are schemas by names of the caller."""
_VALUES = {"enum", "const", "default", "examples", "example"}
"""Keywords whose values are not schemas."""


def each_schema(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """A copy of `value`, which contains schemas, with `change` applied to each, innermost first."""
    if isinstance(value, list):
        return [each_schema(part, change) for part in value]
    if not isinstance(value, dict):
        return value
    copy: dict[str, Any] = {}
    for key, inner in value.items():
        if key in _VALUES:
            copy[key] = inner
        elif key in _MAPS and isinstance(inner, dict):
            copy[key] = {name: each_schema(part, change) for name, part in inner.items()}
        else:
            copy[key] = each_schema(inner, change)
    return change(copy)


def types_of(schema: dict[str, Any]) -> list[Any]:
    """The value of the keyword `type` as a list; empty without it."""
    types = schema.get("type", [])
    return types if isinstance(types, list) else [types]


@dataclass(frozen=True)
class Interval:
    """The interval of a schema's numbers."""

    low: float = -math.inf
    high: float = math.inf
    is_open_below: bool = False
    """Whether `low` itself is excluded."""
    is_open_above: bool = False

    @classmethod
    def of(cls, schema: dict[str, Any]) -> Interval:
        """The interval of the bounds of `schema`. Raises ValueError if a bound is not a number."""
        low, is_open_below = max(_bounds(schema, "minimum", "exclusiveMinimum", -math.inf))
        high, is_closed_above = min(
            (value, not is_open)
            for value, is_open in _bounds(schema, "maximum", "exclusiveMaximum", math.inf)
        )
        return cls(low, high, is_open_below, not is_closed_above)

    @property
    def keywords(self) -> dict[str, float]:
        """The interval as keywords of a schema."""
        below = "exclusiveMinimum" if self.is_open_below else "minimum"
        above = "exclusiveMaximum" if self.is_open_above else "maximum"
        return {key: value for key, value in ((below, self.low), (above, self.high))
                if math.isfinite(value)}  # fmt: skip

    @property
    def negated(self) -> Interval:
        return Interval(-self.high, -self.low, self.is_open_above, self.is_open_below)

    @property
    def whole(self) -> Interval:
        """The smallest closed interval with the same integers."""
        low, high = self.low, self.high
        if math.isfinite(low):
            low = math.floor(low) + 1 if self.is_open_below else math.ceil(low)
        if math.isfinite(high):
            high = math.ceil(high) - 1 if self.is_open_above else math.floor(high)
        return Interval(low, high)

    @property
    def above_0(self) -> Interval | None:
        """The part of the interval above 0; None if it is empty."""
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
    """The bounds of two keywords, each with whether it excludes itself."""
    bounds = [(none, False)]
    for keyword in (closed, opened):
        value = schema.get(keyword)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
            raise ValueError(f"{keyword} must be a number of at most 1e300")
        bounds.append((value, keyword == opened))
    return bounds


def repeated(item: str, comma: str, low: int, high: int | None, *, is_first: bool = True) -> str:
    """A grammar expression for `low` to `high` times `item`, separated by commas, with a comma in
    front unless they come first."""
    if not is_first:
        return f"({comma} {item}){_times(low, high)}"
    more = f"{item} ({comma} {item}){_times(max(low - 1, 0), high and high - 1)}"
    return more if low else f"({more})?"


def _times(low: int, high: int | None) -> str:
    return f"{{{low},{'' if high is None else high}}}"
