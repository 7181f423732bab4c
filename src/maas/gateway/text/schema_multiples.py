"""Limits of `multipleOf` in a JSON Schema: engines build an automaton that counts up to it."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import chain
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.json_schema import ANNOTATIONS
from maas.domain.names import shown
from maas.gateway.text.schema_keywords import is_intersection
from maas.gateway.text.schema_references import MAX_REFERRED, ReferenceTarget

MAX_MULTIPLE, MAX_DECIMALS = 10_000, 9
"""Largest multiple without its decimal point, and its decimals. In an intersection the least
common multiple has the same limit."""
MAX_MULTIPLES = 200_000
"""Sum of all different multiples."""


def checked_multiple(step: Any, field: str) -> Fraction:
    """Raises InvalidInput unless an engine can count up to `step`."""
    is_number = isinstance(step, int | float | Fraction) and not isinstance(step, bool)
    if not is_number or step <= 0:
        raise _refusal(field, step)
    exact = step if isinstance(step, Fraction) else Fraction(str(step))
    for decimals in range(MAX_DECIMALS + 1):
        digits = exact * 10**decimals
        if digits.denominator == 1 and digits <= MAX_MULTIPLE:
            return exact
        if digits.denominator == 1:
            break
    raise _refusal(field, str(step))


def check_multiples(
    schemas: list[dict[str, Any]], targets: dict[str, ReferenceTarget], field: str
) -> None:
    """Check the multiples in `schemas`, which are all schemas within one schema.

    Raises InvalidInput if one of them, their sum, or the least common multiple of those that
    constrain the same value is too large.
    """
    steps = {checked_multiple(s["multipleOf"], field) for s in schemas if "multipleOf" in s}
    if sum(step.numerator for step in steps) > MAX_MULTIPLES:
        raise InvalidInput(f"{field}: too many different large multipleOf", field=field)
    if len(steps) < 2:
        return
    steps_left = MAX_REFERRED
    for schema in schemas:
        if not is_intersection(schema):
            continue
        groups, steps_left = _multiples_by_value(schema, targets, steps_left)
        if steps_left < 0:
            raise InvalidInput(
                f"{field}: too many schemas with multipleOf constrain the same value", field=field
            )
        for group in groups:
            fractions = [checked_multiple(step, field) for step in group]
            checked_multiple(_least_common_multiple(fractions), field)


def _multiples_by_value(
    schema: dict[str, Any], targets: dict[str, ReferenceTarget], max_steps: int
) -> tuple[list[list[Any]], int]:
    """Groups of multiples in `schema` that may constrain the same value, and the steps left.

    The multiples of properties with one name are a group; all are one group if a schema may apply
    to properties of other names.
    """
    groups: dict[str, list[Any]] = {}
    visited: set[tuple[int, str]] = set()
    pending: list[tuple[Any, str]] = [(schema, "")]
    is_mixed = False
    while pending and max_steps >= 0:
        part, name = pending.pop()
        if (id(part), name) in visited:
            continue
        visited.add((id(part), name))
        max_steps -= 1
        if isinstance(part, list):
            pending += [(inner, name) for inner in part]
        if not isinstance(part, dict):
            continue
        if "multipleOf" in part:
            groups.setdefault(name, []).append(part["multipleOf"])
        is_mixed = is_mixed or bool({"patternProperties", "additionalProperties"} & part.keys())
        pending += _named_parts(part, name, targets)
    if is_mixed:
        return [list(chain.from_iterable(groups.values()))], max_steps
    return list(groups.values()), max_steps


def _named_parts(
    schema: dict[str, Any], name: str, targets: dict[str, ReferenceTarget]
) -> list[tuple[Any, str]]:
    """The schemas in `schema`, each with the name of the property that it constrains."""
    parts: list[tuple[Any, str]] = []
    for key, inner in schema.items():
        if key == "properties" and isinstance(inner, dict):
            parts += [(value, other) for other, value in inner.items()]
        elif key == "patternProperties" and isinstance(inner, dict):
            parts += [(value, name) for value in inner.values()]
        elif key == "$ref" and isinstance(inner, str):
            parts.append((targets[inner].value if inner in targets else None, name))
        elif key not in ANNOTATIONS and key not in ("const", "enum", "multipleOf"):
            parts.append((inner, name))
    return parts


def _least_common_multiple(steps: list[Fraction]) -> Fraction:
    """1 for an empty list."""
    if not steps:
        return Fraction(1)
    denominator = math.lcm(*(step.denominator for step in steps))
    return Fraction(math.lcm(*(int(step * denominator) for step in steps)), denominator)


def _refusal(field: str, step: Any) -> InvalidInput:
    return InvalidInput(
        f"{field}: multipleOf: expected a number above 0 with at most {MAX_DECIMALS} decimals, and "
        f"at most {MAX_MULTIPLE} without its point, got {shown(step)}",
        field=field,
    )
