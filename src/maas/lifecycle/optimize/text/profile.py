"""Profile of a language model, by the tensors of its GGUF file."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from maas.domain.errors import InvalidInput
from maas.lifecycle.optimize.measurement.profile import (
    GRAPH_FIELDS,
    MOST_LAYERS,
    Profile,
    add_measurement,
)
from maas.lifecycle.optimize.results import Candidate, Measurement
from maas.runtimes.formats.gguf import GgufTensor, check_gguf

_BLOCK = re.compile(r"^blk\.\d+\.")
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


def profile_text(candidate: Candidate, measurement: Measurement | None = None) -> Profile:
    """Parameters, multiply-adds per token, tensors by share of the bytes, memory and cost.

    Figures that the file does not provide are explained in `missing`; nothing is raised for them.
    """
    path = next(iter(candidate.files.values()))
    result = Profile(file_bytes=path.stat().st_size)
    result.missing["slowest"] = f"{candidate.runtime} does not report the time of its layers"
    try:
        summary = check_gguf(path)
    except InvalidInput as error:
        result.missing |= dict.fromkeys(GRAPH_FIELDS, error.message)
    else:
        result.parameters = summary.parameters
        lines = _lines(summary.layers)
        result.multiply_adds = sum(line["multiply_adds"] or 0 for line in lines)
        result.largest = lines[:MOST_LAYERS]
    add_measurement(result, measurement, None)
    result.how |= {
        "per": "tokens",
        "multiply_adds": "per token, in matrices; those of attention grow with the context",
    }
    return result


def _lines(tensors: tuple[GgufTensor, ...]) -> list[dict[str, Any]]:
    """Tensors by name and type, with those of all blocks together, largest first."""
    groups: dict[tuple[str, str], list[GgufTensor]] = defaultdict(list)
    for tensor in tensors:
        groups[_BLOCK.sub("blk.*.", tensor.name), tensor.type].append(tensor)
    total = sum(tensor.bytes for tensor in tensors) or 1
    tied = all(tensor.name != OUTPUT for tensor in tensors)
    lines = []
    for (name, tensor_type), group in groups.items():
        size = sum(tensor.bytes for tensor in group)
        elements = sum(tensor.elements for tensor in group)
        # The embedding is a lookup, which multiplies only if it is the output matrix, too.
        multiplies = group[0].rank == 2 and (name != EMBEDDING or tied)
        lines.append(
            {
                "name": f"{name} × {len(group)}" if len(group) > 1 else name,
                "op": tensor_type,
                "parameters": elements,
                "bytes": size,
                "share": size / total,
                "multiply_adds": elements if multiplies else 0,
            }
        )
    return sorted(lines, key=lambda line: -line["bytes"])
