"""A GGUF file with its weights in other types, by the `gguf` package of llama.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maas.domain.machine import library_versions
from maas.lifecycle.optimize.candidates.libraries import require
from maas.lifecycle.optimize.subject import NotApplicable

EMBEDDINGS = ("token_embd.weight", "output.weight")
COUNTED = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture")
"""Keys that the writer writes itself."""
FILE_TYPES = {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9}
"""general.file_type, as llama.cpp counts."""
TYPES_LEFT_OUT: Mapping[str, str] = {
    "gguf-q4_k": "types of 256 weights (Q2_K to Q6_K, IQ) can be read and not written by the gguf "
    "package, and the installed llama.cpp offers no way to write any",
}


def requantize(source: Path, target: Path, weights: str, embedding: str) -> dict[str, Any]:
    """Writes `source` with all matrices as `weights` and the embedding as `embedding`; an empty
    name leaves them as they are. Vectors stay as they are. One tensor is in memory at a time.

    Raises NotApplicable without the package, or if nothing would change.
    """
    require("gguf", "optimize")
    import gguf  # noqa: PLC0415  (not installed everywhere)

    reader = gguf.GGUFReader(source)
    plan = [(tensor, _wanted(tensor, weights, embedding)) for tensor in reader.tensors]
    changed = [(t, kind) for t, kind in plan if kind is not t.tensor_type]
    if not changed:
        raise NotApplicable(f"the original's weights are {weights or embedding} already")
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    _copy_keys(reader, writer, weights)
    for tensor, kind in plan:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        if kind is tensor.tensor_type:
            shape, size = tensor.data.shape, tensor.data.nbytes
        else:
            shape = gguf.quants.quant_shape_to_byte_shape(shape, kind)
            size = _product(shape)
        writer.add_tensor_info(tensor.name, shape, tensor.data.dtype, size, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, kind in plan:
        data = tensor.data
        if kind is not tensor.tensor_type:
            data = gguf.quants.quantize(gguf.quants.dequantize(data, tensor.tensor_type), kind)
        writer.write_tensor_data(data)
    writer.close()
    return {
        "by": "gguf.quants",
        "weights": weights or "as they were",
        "embedding": embedding or "as it was",
        "changed": {
            f"{before} to {after}": sum(
                t.tensor_type.name == before and k.name == after for t, k in changed
            )
            for before, after in {(t.tensor_type.name, k.name) for t, k in changed}
        },
        "library": library_versions("gguf"),
    }


def _copy_keys(reader: Any, writer: Any, weights: str) -> None:
    import gguf  # noqa: PLC0415

    for key, field in reader.fields.items():
        if key in COUNTED:
            continue
        value = field.contents()
        if key == "general.file_type" and weights in FILE_TYPES:
            value = FILE_TYPES[weights]
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, value, field.types[0], sub_type=inner)


def _wanted(tensor: Any, weights: str, embedding: str) -> Any:
    """The type that a tensor gets; its own where its rows do not fit into blocks of another."""
    import gguf  # noqa: PLC0415

    name = embedding if tensor.name in EMBEDDINGS else weights
    own = tensor.tensor_type
    if not name or len(tensor.shape) != 2 or not tensor.name.endswith(".weight"):
        return own
    kind = gguf.GGMLQuantizationType[name]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return own if int(tensor.shape[0]) % block else kind


def _product(shape: tuple[int, ...]) -> int:
    found = 1
    for n in shape:
        found *= n
    return found
