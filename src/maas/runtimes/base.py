"""What a runtime is: the code that loads and runs one kind of model."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
    """One loaded model. A runtime is used by one thread at a time."""

    def load(self, request: LoadRequest) -> None:
        """Raises InvalidInput if the files are not a model of this kind or do not match the
        signature."""

    def predict(self, inputs: Arrays) -> Arrays:
        """Answers for rows `[n, …]` of every input of the signature, in its dtypes.

        Returns every output of the signature as `[n, …]`. Raises InferenceFailed if the model
        cannot answer for these inputs.
        """


@cache
def numpy_dtype(datatype: str) -> np.dtype[Any]:
    """The little-endian numpy dtype of an Open Inference Protocol datatype (object for BYTES)."""
    from_name = {"BYTES": "object", "BOOL": "bool", "FP16": "float16", "FP32": "float32"}
    name = from_name.get(datatype) or datatype.lower().replace("fp", "float")
    return np.dtype(name).newbyteorder("<") if name != "object" else np.dtype(object)
