"""Types shared by all kinds of sources: request, result, and the choice of files."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maas.domain.errors import InvalidInput
from maas.domain.names import FILE_NAME, checked_sha256, joined, shown

Progress = Callable[[str, int, int | None], None]
"""Progress callback: a file's name, its bytes so far, and its size if that is known."""

MAX_FILES = 64


@dataclass(frozen=True)
class ObjectStoreAccess:
    """Endpoints and credentials of buckets; empty fields use the service's environment."""

    s3_endpoint: str = ""
    s3_region: str = "us-east-1"
    s3_access_key_id: str = ""
    s3_secret_access_key: str = field(default="", repr=False)
    gs_service_account_file: str = ""
    az_account: str = ""
    az_access_key: str = field(default="", repr=False)


@dataclass(frozen=True)
class SourceAccess:
    """Settings of the machine that pulls."""

    folder: Path
    """Folder of unfinished downloads, which the next attempt resumes."""
    max_bytes: int = 64 << 30
    """Size limit of one file."""
    ca_file: str = ""
    """PEM file of certificates that are trusted in addition to the system's."""
    hf_endpoint: str = ""
    """URL of another server with the Hub's API; empty: the Hub."""
    stores: ObjectStoreAccess = ObjectStoreAccess()


def _silent(name: str, done: int, total: int | None) -> None:
    pass


@dataclass(frozen=True)
class SourceRequest:
    """A source to pull from, and how."""

    source: str
    access: SourceAccess
    file: str | None = None
    """File to pull from a source with several files."""
    sha256: str | None = None
    """Expected SHA-256 of the only file."""
    progress: Progress = _silent

    def __post_init__(self) -> None:
        if self.sha256 is not None:
            checked_sha256(self.sha256)


@dataclass(frozen=True)
class Fetched:
    """Fetched files, which are on this machine."""

    files: dict[str, Path]
    """Paths by the files' names in the manifest."""
    origin: dict[str, Any]
    """Origin as JSON: `kind`, `uri` and the pinned revision or digest, without secrets and paths of
    this machine."""
    license: str = ""
    """License that the source states; empty if it states none."""


@dataclass(frozen=True)
class SourceEntry:
    """A file that a source offers."""

    path: str
    """Path with '/' between folders."""
    size: int | None = None

    @property
    def folder(self) -> str:
        """Path of the folder; empty at the top of the source."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """Path without the folders."""
        return self.path.rpartition("/")[2]

    @property
    def kind(self) -> str:
        """Extension of the name, in lower case."""
        return self.path.rpartition(".")[2].lower()


# Weight formats that hold numbers only; other formats can run code or have no runtime.
_WEIGHTS = re.compile(r"\.(gguf|safetensors|onnx)$", re.IGNORECASE)
_BESIDE = re.compile(
    r"(?:^|/)(?:config|tokenizer|tokenizer_config|special_tokens_map|preprocessor_config|"
    r"generation_config|modules|sentence_bert_config|config_sentence_transformers|vocabulary|"
    r"model_info|modelMeta|labels|added_tokens|1_Pooling/config)\.json$|"
    r"(?:^|/)(?:vocabulary|vocab|labels|merges)\.txt$|(?:^|/)chat_template\.jinja$|\.spm$|\.ya?ml$"
)
_TRANSLATOR = re.compile(r"(?:^|/)(?:model|lex)\.[\w.]+\.bin$")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")


def choose(entries: list[SourceEntry], file: str | None, source: str) -> list[SourceEntry]:
    """The files of a model among all files of a source, in a stable order.

    Raises InvalidInput, which lists the files, if there is no model or more than one.
    """
    if file is not None:
        return _chosen(entries, file, source)
    weights = [e for e in entries if _WEIGHTS.search(e.path)]
    ctranslate2 = [e for e in entries if e.path == "model.bin"]
    if ctranslate2 and any(e.path.startswith("vocabulary.") for e in entries):
        return _with_beside(entries, ctranslate2)
    if not weights:
        translator = [e for e in entries if _TRANSLATOR.search(e.path) and not e.folder]
        if translator:
            return _with_beside(entries, translator)
        raise InvalidInput(
            f"{source} has no weights in GGUF, safetensors, ONNX or CTranslate2; it has "
            f"{_listed(entries) or 'no files'}",
            field="source",
        )
    model = _main_model(weights)
    if model:
        return _with_beside(entries, model)
    raise InvalidInput(
        f"{source} has several models; choose one with --file: {_listed(weights)}", field="file"
    )


def _main_model(weights: list[SourceEntry]) -> list[SourceEntry]:
    """The weights of the model that a source is about; empty if that is ambiguous.

    safetensors and ONNX files at the top are preferred, if they are one file, the parts of one, or
    one of them has the usual name. ONNX files may also lie in folders.
    """
    if len(weights) == 1:
        return weights
    if any(entry.kind == "gguf" for entry in weights):
        return []
    for kind in ("safetensors", "onnx"):
        candidates = [e for e in weights if e.kind == kind and not e.folder]
        if not candidates and kind == "onnx":
            candidates = [e for e in weights if e.kind == kind]
        usual = [e for e in candidates if e.name == f"model.{kind}"]
        if usual:
            return usual
        if len(candidates) == 1 or _are_shards(candidates):
            return candidates
    return []


def _are_shards(entries: list[SourceEntry]) -> bool:
    """Whether all files are numbered parts of a model; False if there are none."""
    return bool(entries) and all(_SHARD.search(entry.path) for entry in entries)


def checked_file_name(path: str) -> str:
    """The last part of a path. Raises InvalidInput if it is no valid file name in a manifest."""
    name = path.rpartition("/")[2]
    if not FILE_NAME.fullmatch(name):
        raise InvalidInput(
            f"{shown(name)} is not a valid file name; choose one with --file", field="file"
        )
    return name


def named(path: str) -> str:
    """Name in the manifest of the file at a source's path; folders become part of the name."""
    if path.startswith("1_Pooling/"):
        return path.replace("/", ".")
    return checked_file_name(path)


def _chosen(entries: list[SourceEntry], file: str, source: str) -> list[SourceEntry]:
    matches = [e for e in entries if e.path == file]
    if not matches:
        matches = [e for e in entries if e.name == file]
    if len(matches) != 1:
        offered = [e for e in entries if _WEIGHTS.search(e.path)] or entries
        problem = "several files called"
        if not matches:
            problem = "no file"
        raise InvalidInput(
            f"{source} has {problem} {shown(file)}; it has {_listed(offered)}", field="file"
        )
    return _with_beside(entries, matches)


def _with_beside(entries: list[SourceEntry], weights: list[SourceEntry]) -> list[SourceEntry]:
    """`weights` with the configuration next to them or at the top; a GGUF file needs none."""
    if all(e.path.lower().endswith(".gguf") for e in weights):
        return weights
    chosen = {named(e.path): e for e in weights}
    folders = {"", "1_Pooling", *(e.folder for e in weights)}
    for entry in sorted(entries, key=lambda e: e.path.count("/"), reverse=True):
        if _BESIDE.search(entry.path) and entry.folder in folders:
            chosen.setdefault(named(entry.path), entry)
    if len(chosen) > MAX_FILES:
        raise InvalidInput(f"a model has at most {MAX_FILES} files; this would be {len(chosen)}")
    return [chosen[name] for name in sorted(chosen)]


def _listed(entries: list[SourceEntry], most: int = 20) -> str:
    return joined([shown(e.path, 100)[1:-1] for e in entries], most)
