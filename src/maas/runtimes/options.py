"""Checks for a variant's options and JSON files, and BYTES outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas.domain.errors import InvalidInput
from maas.domain.names import shown


def check_names(options: dict[str, Any], names: tuple[str, ...]) -> None:
    """Raises InvalidInput if `options` has another name than `names`."""
    for name in options:
        if name not in names:
            raise InvalidInput(
                f"there is no option {shown(name)}; expected one of {', '.join(names)}",
                field="options",
            )


def one_of(options: dict[str, Any], name: str, choices: tuple[str, ...]) -> str:
    """The option `name`, by default the first of `choices`. Raises InvalidInput for others."""
    value = options.get(name, choices[0])
    if value not in choices:
        raise InvalidInput(
            f"option {name} must be one of {', '.join(choices)}; got {shown(value)}", field=name
        )
    return str(value)


def number_of(options: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    """The option `name`, a number from `low` to `high`. Raises InvalidInput for others."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(
            f"option {name} must be a number from {low:g} to {high:g}; got {shown(value)}",
            field=name,
        )
    return value


def flag_of(options: dict[str, Any], name: str, default: bool) -> bool:
    """The option `name`. Raises InvalidInput if it is neither true nor false."""
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInput(f"option {name} must be true or false; got {shown(value)}", field=name)
    return value


def parsed_json(files: dict[str, bytes], name: str) -> dict[str, Any]:
    """The JSON object in the file `name`. Raises InvalidInput if there is none."""
    try:
        value = json.loads(files[name])
    except KeyError:
        raise InvalidInput(f"the variant lacks {name}", field="files") from None
    except (ValueError, RecursionError) as wrong:
        raise InvalidInput(f"{name} is not JSON: {wrong}", field="files") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} must hold a JSON object", field="files")
    return value


def texts(elements: Sequence[object]) -> NDArray[Any]:
    """A BYTES output [n] of one element per row."""
    output = np.empty(len(elements), object)
    output[:] = elements
    return output
