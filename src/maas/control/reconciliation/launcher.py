"""Starts, finds and ends replica processes, on this machine for now."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil

from maas.control.private_files import write_private
from maas.domain.deployments import LocalFile, ReplicaSpec
from maas.domain.errors import MaasError, OutOfSpace, Unavailable, error_from_problem
from maas.settings import child_environment
from maas.storage.artifacts import ArtifactStore
from maas.storage.log_files import LogFolder, log_tail, remove_log

POLL_S = 0.1
"""How often a process is looked at where the system cannot tell us that it ended."""
MOST_OLD_LOGS = 200


class Process(Protocol):
    """A replica process, whoever started it."""

    @property
    def pid(self) -> int: ...

    async def ended(self) -> int | None:
        """Waits for its end; the exit status (negative: killed by that signal), None if unknown."""

    def send_signal(self, number: int) -> None:
        """Nothing happens if it has ended."""


@dataclass(frozen=True)
class LaunchedReplica:
    """A replica that somebody started."""

    spec: ReplicaSpec
    process: Process
    started_at: float
    """Seconds since the epoch, UTC."""


class Launcher(Protocol):
    async def start(self, template: ReplicaSpec) -> LaunchedReplica:
        """Brings the files of `template` to where the replica runs and starts it there.

        The template lacks id, socket and the files' paths. Raises MaasError: ArtifactCorrupt,
        NotFound, OutOfSpace, Unavailable.
        """

    async def find(self) -> list[LaunchedReplica]:
        """Replicas that a former control started and that still run."""

    def failure(self, replica_id: str) -> MaasError | None:
        """What a replica that ended said about why."""

    def last_lines(self, replica_id: str) -> str:
        """The end of what a replica logged, for a sentence of explanation."""

    def retire(self, replica_id: str) -> None:
        """Notes that a replica was told to end, so that `find` will not give it again."""

    def forget(self, replica_id: str) -> None:
        """Removes what a replica that ended left behind, but for its log."""


class LocalLauncher:
    """Replicas as processes of this machine, each in a session of its own.

    They outlive control on purpose: a control that is killed finds them again. They do not outlive
    the supervisor, whose lifeline they inherit.
    """

    def __init__(
        self,
        run_dir: Path,
        logs: LogFolder,
        cache_dir: Path,
        artifacts: ArtifactStore,
        lifeline: int | None = None,
        engines_file: str = "",
    ) -> None:
        self._run_dir = run_dir
        self._specs = run_dir / "replicas"
        self._logs = logs
        self._cache_dir = cache_dir
        self._artifacts = artifacts
        self._lifeline = lifeline
        self._engines_file = engines_file
        self._specs.mkdir(mode=0o700, parents=True, exist_ok=True)
        logs.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def start(self, template: ReplicaSpec) -> LaunchedReplica:
        try:
            spec = await asyncio.to_thread(self._prepare, template)
            return self._launch(spec)
        except OSError as wrong:
            kind = OutOfSpace if wrong.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
            raise kind(f"a replica cannot be started: {wrong.strerror}") from None

    def _launch(self, spec: ReplicaSpec) -> LaunchedReplica:
        command = [sys.executable, "-m", "maas.processes.replica", str(self._spec_file(spec.id))]
        inherited: tuple[int, ...] = ()
        if self._engines_file:
            command += ["--engines", self._engines_file]
        if self._lifeline is not None:
            command += ["--lifeline", str(self._lifeline)]
            inherited = (self._lifeline,)
        log = self._logs.file(spec.id)
        with os.fdopen(log.open(), "ab") as output:
            child = subprocess.Popen(
                [*command, *log.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=child_environment(),
                pass_fds=inherited,
                start_new_session=True,
            )
        return LaunchedReplica(spec, LocalProcess(child.pid, child), time.time())

    async def find(self) -> list[LaunchedReplica]:
        found = []
        for pid, spec_file in await asyncio.to_thread(lambda: list(self._running())):
            process = LocalProcess(pid)
            # The process is pinned now; was it the right one, and not a later one with its id?
            if _spec_argument(pid, self._specs) != spec_file:
                continue
            try:
                spec = ReplicaSpec.from_dict(json.loads(spec_file.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, MaasError):
                # Retired, or from an OpenMaaS that said it in other words.
                process.send_signal(signal.SIGTERM)
                continue
            found.append(LaunchedReplica(spec, process, process.started_at))
        self._tidy({launched.spec.id for launched in found})
        return found

    def failure(self, replica_id: str) -> MaasError | None:
        try:
            problem = json.loads(self._spec_file(replica_id).with_suffix(".error").read_bytes())
        except (OSError, ValueError):
            return None
        return error_from_problem(problem) if isinstance(problem, dict) else None

    def last_lines(self, replica_id: str) -> str:
        said = log_tail(self._logs.file(replica_id).path, 6, 2000) or b""
        lines = said.decode("utf-8", "replace").split("\n")
        return " | ".join(line.strip() for line in lines if line.strip())[-600:]

    def retire(self, replica_id: str) -> None:
        self._spec_file(replica_id).unlink(missing_ok=True)

    def forget(self, replica_id: str) -> None:
        for suffix in (".json", ".error"):
            self._spec_file(replica_id).with_suffix(suffix).unlink(missing_ok=True)
        self._socket(replica_id).unlink(missing_ok=True)

    def _prepare(self, template: ReplicaSpec) -> ReplicaSpec:
        files = tuple(
            LocalFile(f.name, str(self._artifacts.fetch(f.sha256, self._cache_dir)), f.sha256)
            for f in template.files
        )
        # Short, because the path of a unix socket has 107 bytes at most.
        replica_id = f"r-{secrets.token_hex(4)}"
        socket = str(self._socket(replica_id))
        spec = replace(template, id=replica_id, socket=socket, files=files)
        write_private(self._spec_file(replica_id), json.dumps(spec.to_dict()).encode())
        self._remove_old_logs()
        return spec

    def _running(self) -> Iterator[tuple[int, Path]]:
        """(process id, its spec file) of every replica of this home."""
        for process in psutil.process_iter():
            spec_file = _spec_argument(process.pid, self._specs)
            if spec_file is not None:
                yield process.pid, spec_file

    def _tidy(self, running: set[str]) -> None:
        for left in (*self._specs.iterdir(), *self._run_dir.glob("r-*.sock")):
            if left.stem not in running:
                left.unlink(missing_ok=True)

    def _remove_old_logs(self) -> None:
        """A replica that cannot start is tried again and again, and each try has a log."""
        logs = sorted(self._logs.path.glob("r-*.log"), key=_modified)
        for log in logs[:-MOST_OLD_LOGS]:
            if not self._spec_file(log.stem).exists():
                remove_log(log)

    def _spec_file(self, replica_id: str) -> Path:
        return self._specs / f"{replica_id}.json"

    def _socket(self, replica_id: str) -> Path:
        return self._run_dir / f"{replica_id}.sock"


class LocalProcess:
    """A process of this machine, a child of ours or not.

    On Linux a pidfd tells of its end at once and cannot mean another process that got the same id;
    elsewhere the process is looked at ten times a second.
    """

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self._pid = pid
        self._child = child
        self._seen: psutil.Process | None = None
        self._pidfd = -1
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[int | None] = self._loop.create_future()
        self._poller: asyncio.Task[None] | None = None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._seen = psutil.Process(pid)
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._end.set_result(None)
        except (AttributeError, OSError):
            self._poller = self._loop.create_task(self._poll())
        else:
            self._loop.add_reader(self._pidfd, self._has_ended)

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def started_at(self) -> float:
        """Seconds since the epoch; now, if that cannot be known any more."""
        try:
            return float(self._seen.create_time()) if self._seen else time.time()
        except psutil.Error:
            return time.time()

    async def ended(self) -> int | None:
        # Shielded: whoever stops waiting must not take the news from the others.
        return await asyncio.shield(self._end)

    def send_signal(self, number: int) -> None:
        if self._end.done():
            return
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._seen is not None:
                self._seen.send_signal(number)

    def _has_ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._end.set_result(self._child.wait() if self._child is not None else None)

    async def _poll(self) -> None:
        while self._is_running():
            await asyncio.sleep(POLL_S)
        self._end.set_result(self._child.returncode if self._child is not None else None)

    def _is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self._seen is not None and self._seen.is_running()


def _spec_argument(pid: int, specs: Path) -> Path | None:
    """The spec file that process `pid` was started with, if it is a replica of this home."""
    try:
        command = psutil.Process(pid).cmdline()
    except psutil.Error:
        return None
    if "maas.processes.replica" not in command:
        return None
    paths = (Path(argument) for argument in command if argument.endswith(".json"))
    return next((path for path in paths if path.parent == specs), None)


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
