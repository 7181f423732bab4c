"""References in a JSON Schema: where they lead, and what following them costs an engine.

Libraries of engines follow references by recursion and copy what they lead to, so that a short
schema can exhaust the stack or the memory of the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from maas.domain.errors import InvalidInput
from maas.gateway.text.json_body import children
from maas.gateway.text.schema_keywords import constraints, is_intersection

MAX_NESTED = 200
"""Levels of objects, including those behind references. 390 levels fit into a stack of 2 MiB,
the smallest that a thread has."""
MAX_REFERRED = 20_000
"""Values behind all references together; those behind nested references count repeatedly."""
MAX_STEPS = 20_000
"""Steps of the search for long paths through circular references."""
ROOT = "#"
_DEFINITIONS = ("$defs", "definitions")


@dataclass(frozen=True)
class ReferenceTarget:
    """The value to which a reference leads."""

    value: Any
    levels: int
    """Levels of objects in the value."""
    references: set[str]
    """References in the value."""
    count: int
    """Number of values in it, including itself."""

    @classmethod
    def of(cls, value: Any) -> ReferenceTarget:
        levels, count = 0, 0
        references: set[str] = set()
        pending = [(value, 0)]
        while pending:
            item, depth = pending.pop()
            count += 1
            if isinstance(item, dict):
                depth += 1
                levels = max(levels, depth)
                if isinstance(item.get("$ref"), str):
                    references.add(item["$ref"])
            pending += [(inner, depth) for inner in children([item])]
        return cls(value, levels, references, count)


def targets_of(schema: dict[str, Any], field: str) -> dict[str, ReferenceTarget]:
    """By reference, the targets of all references, including those in other targets.

    The target of `#` is the schema without its definitions. Raises InvalidInput if the targets
    have too many values together.
    """
    targets: dict[str, ReferenceTarget] = {}
    pending, count = [ROOT], 0
    while pending:
        reference = pending.pop()
        if reference in targets:
            continue
        value = _resolve(schema, reference)
        if reference == ROOT:
            value = {key: item for key, item in schema.items() if key not in _DEFINITIONS}
        target = targets[reference] = ReferenceTarget.of(value)
        count += target.count
        if count > MAX_REFERRED:
            raise _too_many(field)
        pending += target.references
    return targets


def check_nesting(targets: dict[str, ReferenceTarget], field: str) -> None:
    """Raises InvalidInput if a path through references may be too deep."""
    levels = {name: target.levels for name, target in targets.items()}
    references = {name: target.references for name, target in targets.items()}
    if _max_depth(levels, references) > MAX_NESTED and not _is_shallow(levels, references):
        raise InvalidInput(
            f"{field}: expected at most {MAX_NESTED} levels deep, including what $ref leads to",
            field=field,
        )


def check_copies(targets: dict[str, ReferenceTarget], field: str) -> None:
    """Raises InvalidInput if engines would copy too many values.

    An engine copies the target of a `$ref` that is part of an intersection, and recursively what
    that target copies.
    """
    copies = {name: _copied_references(target.value) for name, target in targets.items()}
    sizes: dict[str, int] = {}
    for start in targets:
        pending = [(start, False)]
        opened: set[str] = set()
        while pending:
            name, is_last = pending.pop()
            if is_last:
                # A circular reference has no size yet; the engine's library refuses it itself.
                copied = sum(sizes.get(other, 0) for other in copies[name])
                sizes[name] = targets[name].count + copied
                if sizes[name] > MAX_REFERRED:
                    raise _too_many(field)
            elif name not in sizes and name not in opened:
                opened.add(name)
                pending.append((name, True))
                pending += [(other, False) for other in copies[name]]
    if sum(sizes[name] for name in targets if copies[name]) > MAX_REFERRED:
        raise _too_many(field)


def _too_many(field: str) -> InvalidInput:
    return InvalidInput(
        f"{field}: expected at most {MAX_REFERRED} values behind all $ref together; they lead to "
        "each other too often",
        field=field,
    )


def _copied_references(value: Any) -> list[str]:
    """The references in `value` that are part of an intersection."""
    references: list[str] = []
    level = [value]
    while level:
        for item in level:
            if not isinstance(item, dict):
                continue
            if isinstance(item.get("$ref"), str) and len(constraints(item)) > 1:
                references.append(item["$ref"])
            if isinstance(item.get("allOf"), list) and is_intersection(item):
                for part in item["allOf"]:
                    if isinstance(part, dict) and isinstance(part.get("$ref"), str):
                        references.append(part["$ref"])
        level = children(level)
    return references


def _resolve(schema: Any, reference: str) -> Any:
    """The value at a JSON pointer (RFC 6901); None if there is none."""
    for part in unquote(reference).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, list) and name.isdecimal() and int(name[:6]) < len(schema):
            schema = schema[int(name)]
        elif isinstance(schema, dict) and name in schema:
            schema = schema[name]
        else:
            return None
    return schema


def _is_shallow(levels: dict[str, int], references: dict[str, set[str]]) -> bool:
    """Whether a search of at most MAX_STEPS steps shows that every path is short.

    The node types of a syntax tree refer to each other, but only through one that lists all of
    them, so each path is short although together they form one large circle.
    """
    steps, depth = 0, 0
    path: list[str] = []
    pending: list[Iterator[str]] = [iter([ROOT])]
    while pending:
        name = next(pending[-1], None)
        if name is None:
            pending.pop()
            if path:
                depth -= levels[path.pop()]
            continue
        steps += 1
        if name in path:
            continue
        depth += levels[name]
        if depth > MAX_NESTED or steps > MAX_STEPS:
            return False
        path.append(name)
        pending.append(iter(references[name]))
    return True


def _max_depth(levels: dict[str, int], references: dict[str, set[str]]) -> int:
    """An upper bound of the levels on any path: all targets in circles count together."""
    referrers: dict[str, set[str]] = {name: set() for name in levels}
    for name, others in references.items():
        for other in others:
            referrers[other].add(name)
    below = _depths_outside_circles(levels, references, referrers)
    above = _depths_outside_circles(levels, referrers, references)
    circle = sum(levels[name] for name in levels.keys() - below.keys() - above.keys())
    depth = max(below.values(), default=0) + circle
    return depth + max(above.values(), default=0) if circle else depth


def _depths_outside_circles(
    levels: dict[str, int], nexts: dict[str, set[str]], previous: dict[str, set[str]]
) -> dict[str, int]:
    """Levels on the longest path along `nexts`, for each target that leads into no circle."""
    counts = {name: len(others) for name, others in nexts.items()}
    ready = [name for name, count in counts.items() if not count]
    depths: dict[str, int] = {}
    while ready:
        name = ready.pop()
        depths[name] = levels[name] + max((depths[other] for other in nexts[name]), default=0)
        for other in previous[name]:
            counts[other] -= 1
            if not counts[other]:
                ready.append(other)
    return depths
