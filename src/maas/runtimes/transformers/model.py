"""Loads a model folder as hubs have it: safetensors, config.json, tokenizer.json.

Nothing in it is executed: no pickles, no Python files, no network. transformers gets a folder with
only the files named here, and a configuration without references to anything else.

Options of the variant, in addition to those of all engines:

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
_REMOVED_KEYS = ("auto_map", "transformers_weights", "_name_or_path", "custom_pipelines")
"""Keys of config.json that refer to code or other files."""
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
_INDEX = "model.safetensors.index.json"

Files = Mapping[str, Path]


@dataclass(frozen=True)
class ModelFolder:
    """The content of a variant's files, read without any library."""

    config: dict[str, Any]
    weights: dict[str, Path]
    size: int
    """Size of the weights in bytes."""
    parameters: int
    ends: frozenset[int]
    """End-of-text tokens."""
    sampling: SamplingDefaults
    template: str
    """The chat template; empty if there is none."""
    special: dict[str, str]
    """Special tokens by the names that templates use."""

    @property
    def trained_context(self) -> int | None:
        length = self.config.get("max_position_embeddings")
        return length if isinstance(length, int) and length > 0 else None


def read_folder(files: Files) -> ModelFolder:
    """Reads a model folder. Raises InvalidInput if it is not a language model in safetensors."""
    weights = {name: path for name, path in files.items() if name.endswith(".safetensors")}
    for needed in ("config.json", "tokenizer.json"):
        if needed not in files:
            raise InvalidInput(f"the variant lacks {needed}", field="files")
    if not weights:
        raise InvalidInput("the variant has no weights in safetensors", field="files")
    summaries = [check_safetensors(path, name) for name, path in weights.items()]
    config = _object(files, "config.json")
    generation = _object(files, "generation_config.json")
    tokenizer = _object(files, "tokenizer_config.json")
    special = {name: _token_text(tokenizer.get(name)) for name in _SPECIAL_TOKENS}
    return ModelFolder(
        config={k: v for k, v in config.items() if k not in _REMOVED_KEYS and "attn_impl" not in k},
        weights=weights,
        size=sum(summary.size for summary in summaries),
        parameters=sum(summary.parameters for summary in summaries),
        ends=_ends(generation) or _ends(config),
        sampling=_sampling(generation),
        template=_template(files, tokenizer),
        special={name: text for name, text in special.items() if text},
    )


def chosen_device(options: dict[str, Any]) -> torch.device:
    """The option `device`. Raises InvalidInput if it is not a device of this machine."""
    name = options.get("device", "auto")
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        raise InvalidInput(
            f"option device must be auto, cpu, cuda or cuda:N; got {shown(name)}", field="device"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise InvalidInput(
                f"option device is {name}; this machine has {count} CUDA devices that PyTorch "
                f"{torch.__version__} can use",
                field="device",
            )
    return device


def chosen_dtype(options: dict[str, Any], device: torch.device) -> torch.dtype:
    """The option `dtype`. Raises InvalidInput."""
    name = one_of(options, "dtype", DTYPES)
    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def load_model(folder: ModelFolder, device: torch.device, dtype: torch.dtype) -> Any:
    """The model in evaluation mode. Raises InvalidInput if transformers does not load all of it."""
    disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="maas-transformers-") as directory:
        where = Path(directory)
        # The library expects the original file names; in the cache files are named by digest.
        for name, path in folder.weights.items():
            (where / name).symlink_to(path.resolve())
        (where / "config.json").write_bytes(msgspec.json.encode(folder.config))
        try:
            if list(folder.weights) != ["model.safetensors"]:
                (where / _INDEX).write_text(json.dumps(_index(folder.weights)))
            model, report = AutoModelForCausalLM.from_pretrained(
                where,
                dtype=dtype,
                attn_implementation="sdpa",
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
            model = model.to(device).eval()
        except Exception as wrong:  # noqa: BLE001 - depends on the configuration
            reason = " ".join(str(wrong).replace(directory, "").split())[:300]
            raise InvalidInput(f"transformers does not load this model: {reason}") from None
    lost = sorted([*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])])
    if lost:
        raise InvalidInput(
            f"the weights are not those of config.json: {len(lost)} are missing or of another "
            f"shape, for example {shown(lost[0])}",
            field="files",
        )
    return model


def _index(weights: dict[str, Path]) -> dict[str, Any]:
    """The file of every tensor. An index among the files could name any file."""
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


def _ends(config: dict[str, Any]) -> frozenset[int]:
    ends = config.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(end for end in ends if isinstance(end, int) and not isinstance(end, bool))


def _sampling(config: dict[str, Any]) -> SamplingDefaults:
    """The publisher's recommendations, if they are in a sensible range."""

    def number(name: str, default: float, low: float, high: float) -> float:
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return default
        return float(value) if low <= value <= high else default

    return SamplingDefaults(
        number("temperature", TEMPERATURE, 0.0, 5.0),
        number("top_p", TOP_P, 0.01, 1.0),
        int(number("top_k", TOP_K, 1, LARGEST_TOP_K)),
    )


def _template(files: Files, tokenizer: dict[str, Any]) -> str:
    own = files.get("chat_template.jinja")
    if own is not None:
        if own.stat().st_size > MAX_JSON_BYTES:
            raise InvalidInput("chat_template.jinja is too large", field="files")
        return own.read_text(encoding="utf-8", errors="replace")
    template = tokenizer.get("chat_template")
    if isinstance(template, list):
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else ""


def _token_text(token: object) -> str:
    """A special token, which is a text or an object with one."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""
