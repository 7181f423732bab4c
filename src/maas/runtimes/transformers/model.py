"""A folder of a hub - safetensors, config.json, tokenizer.json - as a model on a device.

Nothing of it is code: no pickles, no Python files, no network. transformers gets a folder that has
only what is named here, with a configuration that can point nowhere else.

Options of the variant, besides those of all engines for text:

    device  auto (default: the first CUDA device, else the CPU), cpu, cuda or cuda:N
    dtype   auto (default: bfloat16 on CUDA where it can, else float16; float32 on the CPU),
            float32, bfloat16 or float16
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from maas.domain.errors import InvalidInput
from maas.domain.names import shown
from maas.runtimes.formats.safetensors_header import check_safetensors
from maas.runtimes.options import one_of
from maas.runtimes.transformers.sampler import (
    LARGEST_TOP_K,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    SamplingDefaults,
)

MAX_JSON_BYTES = 16 << 20
DTYPES = ("auto", "float32", "bfloat16", "float16")
_DEVICE = re.compile(r"auto|cpu|cuda(?::\d{1,2})?")
_NEVER_KEPT = ("auto_map", "transformers_weights", "_name_or_path", "custom_pipelines")
"""Keys of config.json that name code or files elsewhere."""
_INDEX = "model.safetensors.index.json"

Files = Mapping[str, Path]


@dataclass(frozen=True)
class ModelFolder:
    """What the files of a variant say, before any library has seen them."""

    config: dict[str, Any]
    weights: dict[str, Path]
    size: int
    """Of the weights, in bytes."""
    parameters: int
    ends: frozenset[int]
    """Tokens at which the model ends its text."""
    manner: SamplingDefaults
    template: str
    """Of chats; empty if there is none."""
    special: dict[str, str]
    """Special tokens that templates name."""

    @property
    def trained_context(self) -> int | None:
        found = self.config.get("max_position_embeddings")
        return found if isinstance(found, int) and found > 0 else None


def read_folder(files: Files) -> ModelFolder:
    """Raises InvalidInput for files that are no language model in safetensors."""
    weights = {name: path for name, path in files.items() if name.endswith(".safetensors")}
    for needed in ("config.json", "tokenizer.json"):
        if needed not in files:
            raise InvalidInput(f"the variant lacks {needed}", field="files")
    if not weights:
        raise InvalidInput("the variant has no weights in safetensors", field="files")
    summaries = [check_safetensors(path, name) for name, path in weights.items()]
    config = _object(files, "config.json")
    generation = _object(files, "generation_config.json")
    told = _object(files, "tokenizer_config.json")
    return ModelFolder(
        config={k: v for k, v in config.items() if k not in _NEVER_KEPT and "attn_impl" not in k},
        weights=weights,
        size=sum(summary.size for summary in summaries),
        parameters=sum(summary.parameters for summary in summaries),
        ends=_ends(generation) or _ends(config),
        manner=_manner(generation),
        template=_template(files, told),
        special={
            name: text
            for name in ("bos_token", "eos_token", "unk_token", "pad_token")
            if (text := _text(told.get(name)))
        },
    )


def chosen_device(options: dict[str, Any]) -> torch.device:
    """Raises InvalidInput for a device that is none, or is not here."""
    wanted = options.get("device", "auto")
    if not isinstance(wanted, str) or not _DEVICE.fullmatch(wanted):
        raise InvalidInput(
            f"option device must be auto, cpu, cuda or cuda:N; got {shown(wanted)}", field="device"
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InvalidInput(
                f"option device is {wanted}; this machine has {count} CUDA devices that PyTorch "
                f"{torch.__version__} can use",
                field="device",
            )
    return device


def chosen_dtype(options: dict[str, Any], device: torch.device) -> torch.dtype:
    """Raises InvalidInput."""
    wanted = one_of(options, "dtype", DTYPES)
    if wanted == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    found: torch.dtype = getattr(torch, wanted)
    return found


def load_model(folder: ModelFolder, device: torch.device, dtype: torch.dtype) -> Any:
    """The model, ready to infer. Raises InvalidInput if transformers does not load it whole."""
    disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="maas-transformers-") as made:
        where = Path(made)
        # The library goes by the names of files, and theirs in the cache are digests.
        for name, path in folder.weights.items():
            (where / name).symlink_to(path.resolve())
        (where / "config.json").write_bytes(msgspec.json.encode(folder.config))
        try:
            if list(folder.weights) != ["model.safetensors"]:
                (where / _INDEX).write_text(json.dumps(_index(folder.weights)))
            model, found = AutoModelForCausalLM.from_pretrained(
                where,
                dtype=dtype,
                attn_implementation="sdpa",
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
            model = model.to(device).eval()
        except Exception as wrong:  # noqa: BLE001 - a configuration makes it raise anything
            reason = " ".join(str(wrong).replace(made, "").split())[:300]
            raise InvalidInput(f"transformers does not load this model: {reason}") from None
    lost = sorted([*found["missing_keys"], *(str(key) for key in found["mismatched_keys"])])
    if lost:
        raise InvalidInput(
            f"the weights are not those of config.json: {len(lost)} are missing or of another "
            f"shape, for example {shown(lost[0])}",
            field="files",
        )
    return model


def _index(weights: dict[str, Path]) -> dict[str, Any]:
    """Which file has which tensor. Written anew: one that came along could name any file."""
    where: dict[str, str] = {}
    for name, path in weights.items():
        try:
            with safe_open(path, "pt") as opened:
                where |= dict.fromkeys(opened.keys(), name)
        except SafetensorError as wrong:
            raise InvalidInput(f"{name}: {wrong}", field="files") from None
    return {"metadata": {}, "weight_map": where}


def _object(files: Files, name: str) -> dict[str, Any]:
    """The JSON object in a file; empty if the file is not there."""
    if name not in files:
        return {}
    if files[name].stat().st_size > MAX_JSON_BYTES:
        raise InvalidInput(f"{name} has more than {MAX_JSON_BYTES} bytes", field="files")
    try:
        return msgspec.json.decode(files[name].read_bytes(), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput(f"{name} is not a JSON object", field="files") from None


def _ends(said: dict[str, Any]) -> frozenset[int]:
    ends = said.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(end for end in ends if isinstance(end, int) and not isinstance(end, bool))


def _manner(said: dict[str, Any]) -> SamplingDefaults:
    """What the publisher recommends, as far as it is sensible."""

    def number(name: str, usual: float, low: float, high: float) -> float:
        value = said.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number and value is not None and low <= value <= high else usual

    return SamplingDefaults(
        number("temperature", TEMPERATURE, 0.0, 5.0),
        number("top_p", TOP_P, 0.01, 1.0),
        int(number("top_k", TOP_K, 1, LARGEST_TOP_K)),
    )


def _template(files: Files, told: dict[str, Any]) -> str:
    own = files.get("chat_template.jinja")
    if own is not None:
        if own.stat().st_size > MAX_JSON_BYTES:
            raise InvalidInput("chat_template.jinja is too large", field="files")
        return own.read_text(encoding="utf-8", errors="replace")
    said = told.get("chat_template")
    if isinstance(said, list):
        named = {t.get("name"): t.get("template") for t in said if isinstance(t, dict)}
        said = named.get("default")
    return said if isinstance(said, str) else ""


def _text(token: object) -> str:
    """A special token, which is a text or an object with one."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""
