"""The supervisor: starts control and the gateways, restarts them after a crash, and stops them.

It does nothing else, so that it has no reason to crash itself. It owns what must outlive the other
processes: the lock of the home, the listening socket, and the lifeline.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import ipaddress
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil

from maas.processes.output import log_folder
from maas.processes.socket_paths import check_socket_paths
from maas.settings import ConfigurationError, Settings, child_environment
from maas.storage.files import make_own_dir

BACKOFF_SECONDS = 5.0
"""Longest pause before a process that keeps crashing is restarted."""
HEALTHY_AFTER_SECONDS = 30.0
"""A process that ran for this long is restarted without a pause."""
CONTROL_MARGIN_SECONDS = 10.0
"""Time for control to stop, in addition to the drain time of its replicas."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Child:
    """A process that runs until the supervisor stops it."""

    name: str
    command: list[str]
    fds: tuple[int, ...]
    """File descriptors that it inherits."""
    pid: int = 0
    """0 while it is not running."""
    started: float = 0.0
    """Time of the latest start (monotonic)."""
    exits: int = 0
    """Failed starts and unexpected exits since the process last ran for a while."""
    start_at: float = field(default=0.0)
    """Earliest time of the next start (monotonic)."""


def run(settings: Settings, notify: Callable[[str], None] = lambda text: None) -> int:
    """Runs OpenMaaS until SIGTERM or SIGINT; returns the exit status.

    `notify` is called with a sentence for each event. Raises ConfigurationError if the address is
    not allowed or not available, or if another process serves this home.
    """
    check_bind(settings)
    check_socket_paths(settings.run_dir)
    os.umask(0o077)
    _make_directories(settings)
    lock = _lock_home(settings)
    pid_file = settings.run_dir / "supervisor.pid"
    try:
        listening = _listen(settings)
        # Written once the socket is open: clients rely on the process in this file.
        pid_file.write_text(f"{os.getpid()}\n")
        return Supervisor(settings, listening, notify).run()
    finally:
        pid_file.unlink(missing_ok=True)
        os.close(lock)


def check_bind(settings: Settings) -> None:
    """Raises ConfigurationError for an address beyond this machine without TLS or `insecure`."""
    server = settings.server
    if server.tls_cert or server.insecure or server.host == "localhost":
        return
    try:
        is_loopback = ipaddress.ip_address(server.host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ConfigurationError(
            f"listening on {server.host} would send keys and data over the network unencrypted; "
            "set server.tls_cert and server.tls_key, or use --insecure"
        )


class Supervisor:
    """Starts, restarts and stops the processes of one home."""

    def __init__(
        self, settings: Settings, listening: socket.socket, notify: Callable[[str], None]
    ) -> None:
        self._settings = settings
        self._listening = listening
        self._callback = notify
        self._stop_signals = 0
        self._wake_read, self._wake_write = os.pipe()
        # Every child inherits the reading end; only the supervisor has the writing end.
        self._lifeline, self._lifeline_end = os.pipe()
        arguments = self._settings_file()
        lifeline = ["--lifeline", str(self._lifeline)]
        control = [sys.executable, "-m", "maas.processes.control", *arguments, *lifeline]
        fd = listening.fileno()
        gateway = [sys.executable, "-m", "maas.processes.gateway", *arguments, *lifeline,
                   "--listen", str(fd)]  # fmt: skip
        self._control = Child("control", control, (self._lifeline,))
        self._gateways = [Child("gateway", gateway, (self._lifeline, fd))]
        for number in range(1, settings.server.workers):
            self._gateways.append(Child(f"gateway-{number}", gateway, (self._lifeline, fd)))
        self._children = [self._control, *self._gateways]

    def _settings_file(self) -> list[str]:
        path = self._settings.run_dir / "settings.json"
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(self._settings.to_json())
        return ["--settings-json", str(path)]

    # -- running ----------------------------------------------------------------------------

    def run(self) -> int:
        _adopt_orphans()
        self._catch_signals()
        self._settings.snapshot_file.unlink(missing_ok=True)
        ready = False
        while not self._stop_signals:
            self._reap()
            now = time.monotonic()
            for child in self._children:
                if child.pid == 0 and now >= child.start_at:
                    self._start(child)
            if not ready and self._settings.snapshot_file.exists():
                ready = True
                self._notify(f"ready at {self._settings.base_url}")
            self._sleep(0.02 if not ready else 1.0, self._children)
        return self._stop()

    def _notify(self, text: str) -> None:
        """Calls the callback. Its output may be closed, for example with the terminal."""
        with contextlib.suppress(OSError, ValueError):
            self._callback(text)

    def _start(self, child: Child) -> None:
        try:
            self._spawn(child)
        except OSError as error:  # no memory, process or file descriptor; may be temporary
            pause = _schedule_restart(child)
            self._notify(f"{child.name} cannot be started ({error}); trying again in {pause:.1f} s")

    def _spawn(self, child: Child) -> None:
        log = log_folder(self._settings).file(child.name)
        output = log.open()
        try:
            process = subprocess.Popen(
                [*child.command, *log.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=child.fds,
                env=child_environment(),
                start_new_session=True,
            )
        finally:
            os.close(output)
        child.pid = process.pid
        child.started = time.monotonic()
        process.returncode = 0  # `_reap` waits for it, as for orphans

    def _reap(self) -> bool:
        """Collects processes that have exited; False if there are no child processes left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            child = next((c for c in self._children if c.pid == pid), None)
            if child is None:
                continue
            child.pid = 0
            if self._stop_signals:
                continue
            if time.monotonic() - child.started >= HEALTHY_AFTER_SECONDS:
                child.exits = 0
            _schedule_restart(child)
            code = os.waitstatus_to_exitcode(status)
            cause = f"signal {-code}" if code < 0 else f"status {code}"
            self._notify(
                f"{child.name} exited unexpectedly ({cause}); restarting it. "
                f"See {self._settings.log_dir / (child.name + '.log')}"
            )

    # -- stopping ---------------------------------------------------------------------------

    def _stop(self) -> int:
        """Stops the gateways first, so that accepted requests are answered, then control with its
        replicas."""
        self._notify("stopping: answering accepted requests")
        self._listening.close()
        drain = self._settings.server.drain_s
        clean = self._terminate(self._gateways, drain + 5)
        clean &= self._terminate([self._control], drain + CONTROL_MARGIN_SECONDS)
        # Processes that are left stop when the lifeline closes.
        os.close(self._lifeline_end)
        clean &= self._wait_for(lambda: not self._reap(), 5.0)
        for orphan in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
        self._wait_for(lambda: not self._reap(), 5.0)
        self._notify("stopped" if clean else "stopped; some processes had to be killed")
        return 0 if clean else 1

    def _terminate(self, children: list[Child], seconds: float) -> bool:
        """Sends SIGTERM, and SIGKILL after a timeout; whether SIGTERM was enough."""
        for child in children:
            _signal(child.pid, signal.SIGTERM)

        def have_exited() -> bool:
            self._reap()
            return not any(child.pid for child in children)

        if self._wait_for(have_exited, seconds):
            return True
        for child in children:
            _signal(child.pid, signal.SIGKILL)
        self._wait_for(have_exited, 5.0)
        return False

    def _wait_for(self, done: Callable[[], bool], seconds: float) -> bool:
        """Waits until `done()`; False after a timeout or a second stop signal."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline or self._stop_signals > 1:
                return done()
            self._sleep(0.02, [])
        return True

    # -- signals ----------------------------------------------------------------------------

    def _catch_signals(self) -> None:
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop_signal)

    def _on_stop_signal(self, *_: object) -> None:
        self._stop_signals += 1

    def _sleep(self, seconds: float, children: list[Child]) -> None:
        """Sleeps until a signal arrives or a child is due to start, at most `seconds`."""
        now = time.monotonic()
        due = [c.start_at - now for c in children if c.pid == 0]
        readable, _, _ = select.select([self._wake_read], [], [], max(0.0, min([seconds, *due])))
        if readable:
            os.read(self._wake_read, 4096)


def _schedule_restart(child: Child) -> float:
    """Sets the time of the next start, with exponential backoff; returns the pause in seconds."""
    child.exits += 1
    exponent = min(child.exits, 10)
    pause = 0.0 if child.exits == 1 else min(BACKOFF_SECONDS, 0.1 * 2**exponent)
    child.start_at = time.monotonic() + pause
    return pause


def _signal(pid: int, number: signal.Signals) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _adopt_orphans() -> None:
    """On Linux, makes this process the parent of replicas whose control process has exited."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _make_directories(settings: Settings) -> None:
    for path in (settings.run_dir, settings.log_dir, settings.usage_dir):
        try:
            make_own_dir(path)
        except OSError as error:
            raise ConfigurationError(f"cannot use {path}: {error.strerror}") from None


def _lock_home(settings: Settings) -> int:
    """Locks the home until this process exits; returns the file descriptor."""
    fd = os.open(settings.home_path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    pid_file = settings.run_dir / "supervisor.pid"
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        owner = pid_file.read_text().strip() if pid_file.exists() else "another process"
        raise ConfigurationError(
            f"{settings.home} is already served by process {owner}; stop it with `maas down`"
        ) from None
    return fd


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        is_used = error.errno == errno.EADDRINUSE
        hint = "; another program uses this port, choose one with --port" if is_used else ""
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror}{hint}"
        ) from None
    listening.listen(2048)
    return listening
