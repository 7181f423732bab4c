"""Launchers start, find and stop replica processes; the one here on this machine."""

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
"""Polling interval for the exit of a process where the system has no pidfd."""
MOST_OLD_LOGS = 200


class Process(Protocol):
    """A replica process, started by this control process or by a previous one."""

    @property
    def pid(self) -> int: ...

    async def exited(self) -> int | None:
        """Waits for the exit; returns the status (negative: killed by that signal), None if
        unknown."""

    def send_signal(self, number: int) -> None:
        """Sends a signal; has no effect if the process has exited."""


@dataclass(frozen=True)
class LaunchedReplica:
    """A replica process and its specification."""

    spec: ReplicaSpec
    process: Process
    started_at: float
    """Seconds since the epoch, UTC."""


class Launcher(Protocol):
    """Interface of a launcher."""

    async def start(self, template: ReplicaSpec) -> LaunchedReplica:
        """Fetches the files of `template` to the replica's machine and starts the replica there.

        The template has no id, socket or paths of files. Raises MaasError: ArtifactCorrupt,
        NotFound, OutOfSpace, Unavailable.
        """

    async def find(self) -> list[LaunchedReplica]:
        """Running replicas that a previous control process started."""

    def failure(self, replica_id: str) -> MaasError | None:
        """The error that a replica reported before it exited, if any."""

    def last_lines(self, replica_id: str) -> str:
        """The last log lines of a replica, for an error message."""

    def retire(self, replica_id: str) -> None:
        """Marks a replica as stopping, so that `find` does not return it."""

    def forget(self, replica_id: str) -> None:
        """Removes the files of a replica that has exited, except its log."""


class LocalLauncher:
    """Runs replicas as processes of this machine, each in a session of its own.

    They outlive control, so that the next control process finds them. They do not outlive the
    supervisor, whose lifeline they inherit.
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
        except OSError as error:
            kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else Unavailable
            raise kind(f"a replica cannot be started: {error.strerror}") from None

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
        replicas = []
        for pid, spec_file in await asyncio.to_thread(lambda: list(self._running())):
            process = LocalProcess(pid)
            # The pidfd pins the process; check that the id was not reused before.
            if _spec_argument(pid, self._specs) != spec_file:
                continue
            try:
                spec = ReplicaSpec.from_dict(json.loads(spec_file.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError, MaasError):
                # Retired, or started by another version of OpenMaaS.
                process.send_signal(signal.SIGTERM)
                continue
            replicas.append(LaunchedReplica(spec, process, process.started_at))
        self._remove_stale_files({replica.spec.id for replica in replicas})
        return replicas

    def failure(self, replica_id: str) -> MaasError | None:
        try:
            problem = json.loads(self._spec_file(replica_id).with_suffix(".error").read_bytes())
        except (OSError, ValueError):
            return None
        return error_from_problem(problem) if isinstance(problem, dict) else None

    def last_lines(self, replica_id: str) -> str:
        tail = log_tail(self._logs.file(replica_id).path, 6, 2000) or b""
        lines = tail.decode("utf-8", "replace").split("\n")
        return " | ".join(line.strip() for line in lines if line.strip())[-600:]

    def retire(self, replica_id: str) -> None:
        self._spec_file(replica_id).unlink(missing_ok=True)

    def forget(self, replica_id: str) -> None:
        for suffix in (".json", ".error"):
            self._spec_file(replica_id).with_suffix(suffix).unlink(missing_ok=True)
        self._socket(replica_id).unlink(missing_ok=True)

    def _prepare(self, template: ReplicaSpec) -> ReplicaSpec:
        files = []
        for file in template.files:
            path = self._artifacts.fetch(file.sha256, self._cache_dir)
            files.append(LocalFile(file.name, str(path), file.sha256))
        # Short, because the path of a unix socket has at most 107 bytes.
        replica_id = f"r-{secrets.token_hex(4)}"
        socket = str(self._socket(replica_id))
        spec = replace(template, id=replica_id, socket=socket, files=tuple(files))
        write_private(self._spec_file(replica_id), json.dumps(spec.to_dict()).encode())
        self._remove_old_logs()
        return spec

    def _running(self) -> Iterator[tuple[int, Path]]:
        """(process id, spec file) of every running replica of this home."""
        for process in psutil.process_iter():
            spec_file = _spec_argument(process.pid, self._specs)
            if spec_file is not None:
                yield process.pid, spec_file

    def _remove_stale_files(self, running: set[str]) -> None:
        for path in (*self._specs.iterdir(), *self._run_dir.glob("r-*.sock")):
            if path.stem not in running:
                path.unlink(missing_ok=True)

    def _remove_old_logs(self) -> None:
        """Limits the number of logs: a replica that cannot start leaves one with every attempt."""
        logs = sorted(self._logs.path.glob("r-*.log"), key=_modified)
        for log in logs[:-MOST_OLD_LOGS]:
            if not self._spec_file(log.stem).exists():
                remove_log(log)

    def _spec_file(self, replica_id: str) -> Path:
        return self._specs / f"{replica_id}.json"

    def _socket(self, replica_id: str) -> Path:
        return self._run_dir / f"{replica_id}.sock"


class LocalProcess:
    """A process of this machine, which may be a child of this process.

    On Linux a pidfd reports the exit at once and cannot refer to a later process with the same id.
    Elsewhere the process is polled.
    """

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self._pid = pid
        self._child = child
        self._process: psutil.Process | None = None
        self._pidfd = -1
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int | None] = self._loop.create_future()
        self._poller: asyncio.Task[None] | None = None
        with contextlib.suppress(psutil.NoSuchProcess):
            self._process = psutil.Process(pid)
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._exit.set_result(None)
        except (AttributeError, OSError):
            self._poller = self._loop.create_task(self._poll())
        else:
            self._loop.add_reader(self._pidfd, self._on_exit)

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def started_at(self) -> float:
        """Seconds since the epoch, UTC; the present time if the process has exited."""
        try:
            return float(self._process.create_time()) if self._process else time.time()
        except psutil.Error:
            return time.time()

    async def exited(self) -> int | None:
        # Shielded, because a waiter that is cancelled must not cancel the future for the others.
        return await asyncio.shield(self._exit)

    def send_signal(self, number: int) -> None:
        if self._exit.done():
            return
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            elif self._process is not None:
                self._process.send_signal(number)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self._exit.set_result(self._child.wait() if self._child is not None else None)

    async def _poll(self) -> None:
        while self._is_running():
            await asyncio.sleep(POLL_S)
        self._exit.set_result(self._child.returncode if self._child is not None else None)

    def _is_running(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self._process is not None and self._process.is_running()


def _spec_argument(pid: int, specs: Path) -> Path | None:
    """The spec file in the arguments of process `pid`; None if it is not a replica of this home."""
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
