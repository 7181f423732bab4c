"""What a runtime is: the code that loads and runs one kind of model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.domain.signature import Signature

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class LoadRequest:
    """Files by name, already checked against their SHA-256, and how to load them."""

    files: dict[str, bytes]
    signature: Signature
    threads: int = 1
    options: dict[str, Any] = field(default_factory=dict)


class Runtime(Protocol):
    """One loaded model. A runtime is used by one thread at a time.

    Two attributes are there only where they say something else than usual:
    `takes_bytes = True`: BYTES inputs are encoded images or sound and come as `bytes`, not `str`.
    `last_progress`: when a predict that may take many seconds last got on, seconds on the
    monotonic clock; without it such a replica is taken for stuck.
    """

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput if the files are not a model of this kind or do not match the
        signature."""

    def predict(self, inputs: Arrays) -> Arrays:
        """Answers for rows `[n, …]` of every input of the signature, in its dtypes.

        Returns every output of the signature as `[n, …]`. Raises InferenceFailed if the model
        cannot answer for these inputs.
        """


def takes_bytes(runtime: Runtime) -> bool:
    return bool(getattr(runtime, "takes_bytes", False))


def last_progress(runtime: Runtime) -> float:
    return float(getattr(runtime, "last_progress", 0.0))


def one_of(options: dict[str, Any], name: str, known: tuple[str, ...]) -> str:
    """The option `name`, by default the first that is known; raises InvalidInput for others."""
    value = options.get(name, known[0])
    if value not in known:
        raise InvalidInput(
            f"option {name} must be one of {', '.join(known)}; got {shown(value)}", field=name
        )
    return str(value)


def number_of(
    options: dict[str, Any], name: str, default: float, low: float, high: float
) -> float:
    """The option `name` as a number from `low` to `high`; raises InvalidInput."""
    value = options.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidInput(
            f"option {name} must be a number from {low:g} to {high:g}; got {shown(value)}",
            field=name,
        )
    return value


def texts(elements: Sequence[object]) -> NDArray[Any]:
    """A BYTES output of one element per row."""
    out = np.empty(len(elements), object)
    out[:] = elements
    return out


def parsed_json(files: dict[str, bytes], name: str) -> dict[str, Any]:
    """The object in the file `name`; raises InvalidInput if there is none."""
    try:
        value = json.loads(files[name])
    except KeyError:
        raise InvalidInput(f"the variant lacks {name}", field="files") from None
    except (ValueError, RecursionError) as wrong:
        raise InvalidInput(f"{name} is not JSON: {wrong}", field="files") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{name} must hold a JSON object", field="files")
    return value


@cache
def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The little-endian numpy dtype of an Open Inference Protocol datatype (object for BYTES)."""
    from_name = {"BYTES": "object", "BOOL": "bool", "FP16": "float16", "FP32": "float32"}
    name = from_name.get(datatype) or datatype.lower().replace("fp", "float")
    return np.dtype(name).newbyteorder("<") if name != "object" else np.dtype(object)
