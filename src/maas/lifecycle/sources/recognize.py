"""Recognizes a model by its files: runtime, task, signature and options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from maas.domain import standard_signatures
from maas.domain.errors import InvalidInput, UnsafeArtifact
from maas.domain.models import Task
from maas.domain.signature import Signature
from maas.runtimes.encoders.bert import TYPES as BERT_TYPES
from maas.runtimes.formats.gguf import GgufSummary, check_gguf
from maas.runtimes.formats.safetensors_header import check_safetensors

MAX_CONFIG_BYTES = 16 << 20
TOP = 5
"""Number of labels in a prediction of a classifier."""
_CTRANSLATE2_WHISPER = b"WhisperSpec"
_ENCODERS = (
    "BertModel",
    "RobertaModel",
    "XLMRobertaModel",
    "CamembertModel",
    "MPNetModel",
    "DistilBertModel",
)
_CAUSAL = ("ForCausalLM", "LMHeadModel")
"""Suffixes of the architectures of causal language models."""
_BESIDE_CAUSAL = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja",
)  # fmt: skip
"""Files that the engine reads in addition to weights."""
_NO_CHAT = ("bert", "nomic-bert", "jina-bert-v2", "clip", "t5encoder", "wavtokenizer-dec")
_TRANSLATOR = re.compile(r"model\.([a-z]{2})([a-z]{2})\.[\w.]*bin")
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".joblib", ".h5")

Files = Mapping[str, Path]


@dataclass(frozen=True)
class Recognized:
    """Runtime, task, signature and files of a recognized model."""

    runtime: str
    task: Task
    signature: Signature
    variant: str
    """Name of the variant: runtime or quantization."""
    files: Files
    options: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """Metadata in the files, as JSON."""
    license: str = ""


def recognize(files: Files) -> Recognized:
    """Recognizes a model by the names and headers of its files, and checks its weights.

    Raises UnsafeArtifact for weights that could run code, InvalidInput for files that no runtime
    of this version serves; the message says which files would be served.
    """
    rules = (
        _gguf,
        _whisper,
        _translator,
        _text_classifier,
        _causal,
        _sentence_encoder,
        _image_classifier,
    )
    for rule in rules:
        recognized = rule(files)
        if recognized is not None:
            return recognized
    pickled = [name for name in files if name.lower().endswith(_PICKLES)]
    if pickled:
        raise UnsafeArtifact(
            f"{pickled[0]} may be a pickle, and loading it could run code; use the same model in "
            "safetensors, GGUF or ONNX, or load it where you trust it and use client.publish"
        )
    if any(n.endswith(".onnx") for n in files):
        raise InvalidInput(
            "an ONNX file alone does not describe its rows: publish it with "
            "`maas publish FILE --example JSON`"
        )
    raise InvalidInput(f"no runtime serves these files: {', '.join(sorted(files))}")


def _gguf(files: Files) -> Recognized | None:
    names = [name for name in files if name.lower().endswith(".gguf")]
    if not names:
        return None
    if len(names) > 1:
        raise InvalidInput(
            f"a model has one GGUF file; got {', '.join(names)}. Choose one with --file, or merge "
            "parts with llama.cpp's `llama-gguf-split --merge`"
        )
    summary = check_gguf(files[names[0]], names[0])
    if summary.splits > 1:
        raise InvalidInput(
            f"{names[0]} is one of {summary.splits} parts; merge them with llama.cpp's "
            "`llama-gguf-split --merge` and pull the result"
        )
    if summary.architecture in _NO_CHAT:
        raise InvalidInput(
            f"{names[0]} has the architecture {summary.architecture}, which generates no text; "
            "use a sentence encoder in safetensors or ONNX"
        )
    return Recognized(
        "llama_cpp",
        Task.TEXT_GENERATION,
        standard_signatures.text_generation(),
        f"gguf-{summary.quantization.lower().replace('_', '-')}",
        {names[0]: files[names[0]]},
        facts=gguf_facts(summary),
        license=summary.license,
    )


def gguf_facts(summary: GgufSummary) -> dict[str, Any]:
    return {
        "architecture": summary.architecture,
        "name": summary.name,
        "parameters": summary.parameters,
        "quantization": summary.quantization,
        "context_length": summary.context_length,
        "vocabulary": summary.vocabulary,
        "chat_template": summary.chat_template,
        "bytes": summary.size,
    }


def _whisper(files: Files) -> Recognized | None:
    """A Whisper model of CTranslate2: the file starts with a version and the model's type."""
    if "model.bin" not in files:
        return None
    with files["model.bin"].open("rb") as stream:
        head = stream.read(32)
    length = int.from_bytes(head[4:6], "little")
    if head[6 : 6 + length].rstrip(b"\0") != _CTRANSLATE2_WHISPER:
        return None
    missing = [n for n in ("config.json", "tokenizer.json") if n not in files]
    if missing or not any(n.startswith("vocabulary.") for n in files):
        raise InvalidInput(
            f"a Whisper model needs config.json, tokenizer.json and a vocabulary with model.bin; "
            f"{', '.join(missing) or 'vocabulary.txt or .json'} is missing"
        )
    keep = ("model.bin", "config.json", "tokenizer.json", "preprocessor_config.json")
    served = {n: p for n, p in files.items() if n in keep or n.startswith("vocabulary.")}
    config = _json(files, "config.json")
    facts = {"multilingual": bool(config.get("lang_ids")), "bytes": _bytes(served)}
    return Recognized(
        "whisper",
        Task.TRANSCRIPTION,
        standard_signatures.transcription(),
        "ctranslate2",
        served,
        facts=facts,
    )


def _translator(files: Files) -> Recognized | None:
    """A Marian model in Firefox's format: `model.enpt.intgemm.alphas.bin` with its vocabulary."""
    for name in files:
        match = _TRANSLATOR.fullmatch(name)
        if match:
            return Recognized(
                "translator",
                Task.TRANSLATION,
                standard_signatures.translation(),
                "intgemm8",
                files,
                options={"direction": f"{match[1]}-{match[2]}"},
                facts={"from": match[1], "to": match[2], "bytes": _bytes(files)},
            )
    return None


def _text_classifier(files: Files) -> Recognized | None:
    """An ONNX model whose `config.json` names a sequence-classification architecture and labels."""
    if not {"model.onnx", "config.json", "tokenizer.json"} <= set(files):
        return None
    config = _json(files, "config.json")
    architectures = [str(a) for a in config.get("architectures") or ()]
    if not any(a.endswith("ForSequenceClassification") for a in architectures):
        return None
    labels = _labels(config)
    is_multiple = config.get("problem_type") == "multi_label_classification"
    served = {name: files[name] for name in ("model.onnx", "config.json", "tokenizer.json")}
    return Recognized(
        "text_classifier",
        Task.TEXT_CLASSIFICATION,
        standard_signatures.text_classification(min(TOP, len(labels))),
        "onnx",
        served,
        {"labels": labels, "scale": "independent" if is_multiple else "probabilities"},
        {"architecture": architectures[0], "classes": len(labels), "bytes": _bytes(served)},
    )


def _labels(config: dict[str, Any]) -> list[str]:
    """Class names of `id2label` in order. Raises InvalidInput if it is missing or has a gap."""
    named = config.get("id2label")
    if not isinstance(named, dict) or not named:
        raise InvalidInput("config.json does not name the classes (id2label)")
    try:
        return [str(named[str(i)]) for i in range(len(named))]
    except KeyError as missing:
        raise InvalidInput(f"id2label of config.json lacks {missing}") from None


def _causal(files: Files) -> Recognized | None:
    """A causal language model in safetensors, with config.json and tokenizer.json."""
    weights = [name for name in files if name.endswith(".safetensors")]
    if not weights or "config.json" not in files:
        return None
    config = _json(files, "config.json")
    architectures = [str(a) for a in config.get("architectures") or ()]
    if not any(a.endswith(_CAUSAL) for a in architectures):
        return None
    if "tokenizer.json" not in files:
        raise InvalidInput(
            "a language model needs tokenizer.json; this one has another tokenizer format: load "
            "and save it once with transformers' AutoTokenizer"
        )
    summaries = [check_safetensors(files[name], name) for name in weights]
    served = {name: files[name] for name in (*weights, *_BESIDE_CAUSAL) if name in files}
    tokenizer_config = _json(files, "tokenizer_config.json")
    has_template = "chat_template.jinja" in files or bool(tokenizer_config.get("chat_template"))
    types: dict[str, int] = {}
    for summary in summaries:
        for kind, size in summary.types.items():
            types[kind] = types.get(kind, 0) + size
    facts = {
        "architecture": architectures[0],
        "parameters": sum(summary.parameters for summary in summaries),
        "quantization": max(types, key=lambda kind: types[kind], default="unknown"),
        "context_length": config.get("max_position_embeddings"),
        "vocabulary": config.get("vocab_size"),
        "chat_template": has_template,
        "bytes": _bytes(served),
    }
    return Recognized(
        "transformers",
        Task.TEXT_GENERATION,
        standard_signatures.text_generation(),
        "safetensors",
        served,
        facts=facts,
    )


def _sentence_encoder(files: Files) -> Recognized | None:
    if "tokenizer.json" not in files or "config.json" not in files:
        return None
    weights = next((n for n in ("model.safetensors", "model.onnx") if n in files), None)
    shards = [n for n in files if n.endswith(".safetensors")]
    config = _json(files, "config.json")
    architectures = [str(a) for a in config.get("architectures") or ()]
    if weights is None and not shards:
        return None
    if shards:
        for name in shards:
            check_safetensors(files[name], name)
    is_served = weights == "model.onnx" or config.get("model_type") in BERT_TYPES
    if not any(a in _ENCODERS for a in architectures) or weights is None or not is_served:
        raise InvalidInput(
            f"the architecture {', '.join(architectures) or 'of config.json'} is not served from "
            "these files; encoders are (BertModel and its relatives), and language models "
            "(…ForCausalLM) in safetensors or as GGUF"
        )
    dimensions = config.get("hidden_size")
    if not isinstance(dimensions, int) or not 0 < dimensions <= 65_536:
        raise InvalidInput("config.json must have hidden_size, a whole number from 1 to 65536")
    keep = (weights, "tokenizer.json", "config.json")
    served = {name: files[name] for name in keep}
    options = _encoder_options(files)
    facts = {"architecture": architectures[0], "dimensions": dimensions, "bytes": _bytes(served)}
    variant = "safetensors" if weights.endswith(".safetensors") else "onnx"
    return Recognized(
        "sentence_encoder",
        Task.EMBEDDING,
        standard_signatures.embedding(dimensions),
        variant,
        served,
        options,
        facts | options,
    )


def _encoder_options(files: Files) -> dict[str, Any]:
    """Pooling, length limit and normalization from the files of sentence-transformers, if any."""
    options: dict[str, Any] = {}
    pooling = _json(files, "1_Pooling.config.json")
    kinds = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    for key, kind in kinds.items():
        if pooling.get(key) is True:
            options["pooling"] = kind
    if pooling and "pooling" not in options:
        raise InvalidInput(
            "the pooling of an encoder must be mean or cls; other poolings are not served"
        )
    most = _json(files, "sentence_bert_config.json").get("max_seq_length")
    if isinstance(most, int) and 0 < most <= 1 << 20:
        options["max_tokens"] = most
    modules = _json(files, "modules.json", list)
    if modules:
        types = [str(m.get("type", "")) for m in modules if isinstance(m, dict)]
        options["normalize"] = any(t.endswith("Normalize") for t in types)
    return options


def _image_classifier(files: Files) -> Recognized | None:
    """An ONNX model with the Hub's `config.json` (labels) and `preprocessor_config.json`."""
    if not {"model.onnx", "config.json", "preprocessor_config.json"} <= set(files):
        return None
    config = _json(files, "config.json")
    if not isinstance(config.get("id2label"), dict) or not config["id2label"]:
        return None
    labels = _labels(config)
    options = {"labels": labels} | _preprocessing(_json(files, "preprocessor_config.json"))
    return Recognized(
        "image_classifier",
        Task.IMAGE_CLASSIFICATION,
        standard_signatures.image_classification(min(TOP, len(labels))),
        "onnx",
        {"model.onnx": files["model.onnx"]},
        options,
        {"classes": len(labels), "bytes": _bytes({"model.onnx": files["model.onnx"]})},
    )


def _preprocessing(steps: dict[str, Any]) -> dict[str, Any]:
    """Options of the image classifier's runtime for the steps in preprocessor_config.json."""
    crop, size = (_side(steps.get(name)) for name in ("crop_size", "size"))
    options: dict[str, Any] = {"size": crop or size or 224}
    if crop and size and size >= crop:
        options["resize"] = size
    named = {"image_mean": "mean", "image_std": "std"}
    return options | {ours: steps[theirs] for theirs, ours in named.items() if theirs in steps}


def _side(size: Any) -> int | None:
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def _json(files: Files, name: str, kind: type[Any] = dict) -> Any:
    """The content of a configuration file; empty if the file is missing."""
    if name not in files:
        return kind()
    if files[name].stat().st_size > MAX_CONFIG_BYTES:
        raise InvalidInput(f"{name} has more than {MAX_CONFIG_BYTES} bytes")
    try:
        content = msgspec.json.decode(files[name].read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput(f"{name} is not JSON") from None
    if not isinstance(content, kind):
        raise InvalidInput(f"{name} must be a JSON {'object' if kind is dict else 'array'}")
    return content


def _bytes(files: Files) -> int:
    return sum(path.stat().st_size for path in files.values())
