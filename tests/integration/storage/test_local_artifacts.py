"""The store in a directory: permissions, full disks, damage and killed writers."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from maas.domain.errors import ArtifactCorrupt, InvalidInput, OutOfSpace, StorageFailed
from maas.storage.artifacts import LocalArtifacts
from tests.integration.storage.examples import digest_of

DATA = b"model" * 300_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "home" / "artifacts"


@pytest.fixture
def local(root: Path) -> LocalArtifacts:
    return LocalArtifacts(root)


def path_of(root: Path, data: bytes) -> Path:
    name = digest_of(data)
    return root / "sha256" / name[:2] / name


def test_files_follow_the_layout_and_are_private(root: Path, local: LocalArtifacts) -> None:
    local.put(digest_of(DATA), [DATA])
    assert path_of(root, DATA).read_bytes() == DATA
    everything = [root.parent, root, *root.rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in everything}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


@pytest.mark.parametrize("at", [0, 777_777, len(DATA) - 1])
def test_a_flipped_bit_is_detected(
    root: Path, local: LocalArtifacts, tmp_path: Path, at: int
) -> None:
    local.put(digest_of(DATA), [DATA])
    damaged = bytearray(DATA)
    damaged[at] ^= 1
    path_of(root, DATA).write_bytes(damaged)
    with pytest.raises(ArtifactCorrupt, match="is not the file that was published"):
        list(local.get(digest_of(DATA)))
    with pytest.raises(ArtifactCorrupt):
        local.fetch(digest_of(DATA), tmp_path / "cache")
    assert not (tmp_path / "cache" / digest_of(DATA)).exists()
    assert list((tmp_path / "cache" / "staging").iterdir()) == []


def test_a_symbolic_link_in_place_of_a_file_is_not_followed(
    root: Path, local: LocalArtifacts, tmp_path: Path
) -> None:
    local.put(digest_of(DATA), [DATA])
    path_of(root, DATA).unlink()
    (tmp_path / "elsewhere").write_bytes(DATA)
    path_of(root, DATA).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageFailed):
        list(local.get(digest_of(DATA)))


def test_a_refused_file_leaves_nothing_staged(root: Path, local: LocalArtifacts) -> None:
    with pytest.raises(InvalidInput):
        local.put(digest_of(DATA), [DATA, b"more"])
    assert list((root / "staging").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported_and_leaves_nothing(
    root: Path, local: LocalArtifacts, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    (root / "staging").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutOfSpace):
            local.put(digest_of(DATA), [DATA])
    assert local.size(digest_of(DATA)) is None
    assert list((root / "staging").iterdir()) == []
    assert local.put(digest_of(DATA), [DATA]) == len(DATA)


def test_a_limit_on_the_file_size_is_out_of_space(root: Path, local: LocalArtifacts) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(OutOfSpace):
            local.put(digest_of(DATA), [DATA])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert local.size(digest_of(DATA)) is None
    assert list((root / "staging").iterdir()) == []


def test_a_failed_sync_is_a_failed_put(
    root: Path, local: LocalArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (root / "staging").mkdir(parents=True)
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageFailed, match="Input/output error"):
        local.put(digest_of(DATA), [DATA])
    assert local.size(digest_of(DATA)) is None


def test_a_file_and_its_name_are_synced_before_success(
    root: Path, local: LocalArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "staging").mkdir(parents=True)
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        steps.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def noted_rename(source: Path, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    local.put(digest_of(DATA), [DATA])
    target = path_of(root, DATA)
    assert steps[0].startswith(str(root / "staging" / target.name))
    assert steps[-2:] == ["rename", str(target.parent)]
    assert str(root / "sha256") in steps, "the new folder's name is durable, too"


def test_abandoned_uploads_are_swept_by_age(root: Path, local: LocalArtifacts) -> None:
    local.put(digest_of(DATA), [DATA])
    old, fresh = root / "staging" / "old", root / "staging" / "fresh"
    for path in (old, fresh):
        path.write_bytes(b"half a")
    os.utime(old, (1, 1))
    assert local.sweep(3600) == 1
    assert not old.exists()
    assert fresh.exists()
    assert local.sweep(0) == 1
    assert local.size(digest_of(DATA)) == len(DATA)


KILLED = """
import os, signal, sys
from pathlib import Path
from maas.storage.local_artifacts import LocalArtifacts

root, name, point = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
seen = 0

def dies(event, arguments):
    global seen
    if event in ("open", "os.mkdir", "os.rename", "os.remove") and str(root) in str(arguments):
        seen += 1
        if seen == point:
            os.kill(os.getpid(), signal.SIGKILL)

def chunks():
    for i in range(3):
        dies("open", root)
        yield b"model" * 100_000

sys.addaudithook(dies)
LocalArtifacts(root).put(name, chunks())
"""


def kill_points(root: Path) -> Iterator[Path]:
    """Stores whose writer was killed at its first step, its second, … until one survived."""
    for point in range(1, 60):
        store = root / str(point)
        command = [sys.executable, "-c", KILLED, str(store), digest_of(DATA), str(point)]
        ended = subprocess.run(command, env=os.environ, check=False).returncode
        yield store
        if ended == 0:
            return
        assert ended == -signal.SIGKILL
    raise AssertionError("the writer never came to its end")


def test_a_writer_killed_at_any_step_leaves_the_file_absent_or_complete(tmp_path: Path) -> None:
    points = 0
    for root in kill_points(tmp_path):
        points += 1
        store = LocalArtifacts(root)
        if store.size(digest_of(DATA)) is not None:
            assert b"".join(store.get(digest_of(DATA))) == DATA
        assert store.put(digest_of(DATA), [DATA]) == len(DATA)
        assert b"".join(store.get(digest_of(DATA))) == DATA
        store.sweep(0)
        left = [path for path in root.rglob("*") if path.is_file()]
        assert left == [path_of(root, DATA)]
    assert points >= 8
