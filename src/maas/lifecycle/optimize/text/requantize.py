"""Conversion of the weights of a GGUF file to other types, by the `gguf` package of llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maas.domain.machine import library_versions
from maas.lifecycle.optimize.candidates.libraries import require
from maas.lifecycle.optimize.subject import NotApplicable

EMBEDDINGS = ("token_embd.weight", "output.weight")
WRITER_KEYS = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture")
"""Keys that the writer adds itself."""
FILE_TYPES = {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9}
"""Values of general.file_type in llama.cpp."""
SKIPPED_TYPES: Mapping[str, str] = {
    "gguf-q4_k": "the gguf package can read, but not write, types with blocks of 256 weights (Q2_K "
    "to Q6_K, IQ), and the installed llama.cpp has no interface to write them",
}


def requantize(source: Path, target: Path, weights: str, embedding: str) -> dict[str, Any]:
    """Writes `source` with type `weights` for all matrices and `embedding` for the embedding.

    An empty type keeps the present one. Vectors are not converted. One tensor is in memory at a
    time. Returns how it was made. Raises NotApplicable if the package is missing, or if nothing
    would change.
    """
    require("gguf", "optimize")
    import gguf  # noqa: PLC0415  (an extra)

    reader = gguf.GGUFReader(source)
    plan = [(tensor, _target_type(tensor, weights, embedding)) for tensor in reader.tensors]
    changed: dict[str, int] = {}
    for tensor, target_type in plan:
        if target_type is not tensor.tensor_type:
            change = f"{tensor.tensor_type.name} to {target_type.name}"
            changed[change] = changed.get(change, 0) + 1
    if not changed:
        raise NotApplicable(f"the original's weights already have type {weights or embedding}")
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    _copy_keys(reader, writer, weights)
    for tensor, target_type in plan:
        shape, size = tensor.data.shape, tensor.data.nbytes
        if target_type is not tensor.tensor_type:
            elements = tuple(int(n) for n in reversed(tensor.shape))
            shape = gguf.quants.quant_shape_to_byte_shape(elements, target_type)
            size = math.prod(shape)
        writer.add_tensor_info(tensor.name, shape, tensor.data.dtype, size, target_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, target_type in plan:
        data = tensor.data
        if target_type is not tensor.tensor_type:
            values = gguf.quants.dequantize(data, tensor.tensor_type)
            data = gguf.quants.quantize(values, target_type)
        writer.write_tensor_data(data)
    writer.close()
    return {
        "by": "gguf.quants",
        "weights": weights or "unchanged",
        "embedding": embedding or "unchanged",
        "changed": changed,
        "library": library_versions("gguf"),
    }


def _copy_keys(reader: Any, writer: Any, weights: str) -> None:
    """Copies all metadata, with the new file type."""
    import gguf  # noqa: PLC0415

    for key, field in reader.fields.items():
        if key in WRITER_KEYS:
            continue
        value = field.contents()
        if key == "general.file_type" and weights in FILE_TYPES:
            value = FILE_TYPES[weights]
        element_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, field.types[0], sub_type=element_type)


def _target_type(tensor: Any, weights: str, embedding: str) -> Any:
    """Type for a tensor: its present type if its rows are no multiple of the new type's blocks."""
    import gguf  # noqa: PLC0415

    name = embedding if tensor.name in EMBEDDINGS else weights
    present = tensor.tensor_type
    if not name or len(tensor.shape) != 2 or not tensor.name.endswith(".weight"):
        return present
    target_type = gguf.GGMLQuantizationType[name]
    block, _ = gguf.GGML_QUANT_SIZES[target_type]
    return present if int(tensor.shape[0]) % block else target_type
