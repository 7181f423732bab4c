"""Profile: what a language model consists of, by the tensors of its GGUF file."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from maas.domain.errors import InvalidInput
from maas.lifecycle.optimize.measurement.profile import MOST_LAYERS, Profile, of_measurement
from maas.lifecycle.optimize.results import Candidate, Measurement
from maas.runtimes.formats.gguf import GgufTensor, check_gguf

_BLOCK = re.compile(r"^blk\.\d+\.")
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


def profile_text(candidate: Candidate, measurement: Measurement | None = None) -> Profile:
    """Parameters, multiply-adds of a token, kinds of tensors by share of the bytes, and costs.

    What the file does not tell is said in `missing`; nothing is raised for it.
    """
    path = next(iter(candidate.files.values()))
    found = Profile(file_bytes=path.stat().st_size)
    found.missing["slowest"] = f"{candidate.runtime} does not tell where its time goes"
    try:
        summary = check_gguf(path)
    except InvalidInput as wrong:
        found.missing |= dict.fromkeys(("parameters", "multiply_adds", "largest"), wrong.message)
    else:
        found.parameters = summary.parameters
        lines = _lines(summary.layers)
        found.multiply_adds = sum(line["multiply_adds"] or 0 for line in lines)
        found.largest = lines[:MOST_LAYERS]
    of_measurement(found, measurement, None)
    found.how |= {
        "per": "tokens",
        "multiply_adds": "of one token, in matrices; what attention adds grows with the text",
    }
    return found


def _lines(tensors: tuple[GgufTensor, ...]) -> list[dict[str, Any]]:
    """The same tensor of all blocks together, largest first."""
    groups: dict[tuple[str, str], list[GgufTensor]] = defaultdict(list)
    for tensor in tensors:
        groups[_BLOCK.sub("blk.*.", tensor.name), tensor.type].append(tensor)
    total = sum(tensor.bytes for tensor in tensors) or 1
    tied = all(tensor.name != OUTPUT for tensor in tensors)
    lines = []
    for (name, kind), group in groups.items():
        size = sum(tensor.bytes for tensor in group)
        elements = sum(tensor.elements for tensor in group)
        # A row of the embedding is looked up; only where it is the output, too, it multiplies.
        multiplies = group[0].rank == 2 and (name != EMBEDDING or tied)
        lines.append(
            {
                "name": f"{name} × {len(group)}" if len(group) > 1 else name,
                "op": kind,
                "parameters": elements,
                "bytes": size,
                "share": size / total,
                "multiply_adds": elements if multiplies else 0,
            }
        )
    return sorted(lines, key=lambda line: -line["bytes"])
