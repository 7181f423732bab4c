"""Engines that an operator names in a file of its own, `serving.engines_file`: servers that speak
OpenAI's API, at a URL or as a command that the replica starts.

    [rented]
    url = "https://inference.example.org/v1"
    key_file = "/etc/maas/rented.key"

    [vllm]
    command = ["/opt/vllm/bin/vllm", "serve", "{directory}", "--port", "{port}"]
    environment = { VLLM_API_KEY = "{key}" }
    json_schema = true

A caller names neither URL nor command; a variant's options name the table.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from maas.domain.errors import InvalidInput
from maas.domain.names import shown

MAX_FILE_BYTES = 1 << 20
MAX_KEY_BYTES = 4096


class Engine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the file."""

    url: str = ""
    """Base of the API, with its `/v1`; for a command it is made here."""
    key_file: str = ""
    """Holds the key for `url`; empty: none is sent."""
    command: list[str] = []
    """Program and arguments, with `{port}`, `{key}`, `{model}` (the variant's first file) and
    `{directory}` (all its files) put in. No shell sees it."""
    environment: dict[str, str] = {}
    """For the command, as above; a key is better here, where other users cannot read it."""
    model: str = ""
    """As the engine calls it; empty: the first of its list."""
    context_length: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    """0: what the engine says, else 8192."""
    json_schema: bool = False
    """Whether it holds answers to a schema; otherwise such a request is refused."""
    extra_body: dict[str, Any] = {}
    """Added to each request, for example what makes the engine count every token."""
    ready_s: Annotated[float, Meta(gt=0, le=3600)] = 280.0
    """How long it may take until it answers."""


def read_engine(file: Path | None, name: object) -> Engine:
    """The table `name`. Raises InvalidInput if there is none, or if it is not in order."""
    if file is None:
        raise InvalidInput(
            "the runtime upstream needs the setting serving.engines_file, where the operator "
            "names engines",
            field="engine",
        )
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{file.name} has more than {MAX_FILE_BYTES} bytes")
        tables = tomllib.loads(file.read_text())
    except (OSError, ValueError) as wrong:
        raise InvalidInput(f"{file.name}: {wrong}", field="engine") from None
    if not isinstance(name, str) or name not in tables:
        known = ", ".join(tables) or "none"
        raise InvalidInput(
            f"option engine must name an engine of {file.name}, which has {known}; got "
            f"{shown(name)}",
            field="engine",
        )
    try:
        engine = msgspec.convert(tables[name], Engine)
    except msgspec.ValidationError as wrong:
        raise InvalidInput(f"{file.name}: [{name}]: {wrong}", field="engine") from None
    if bool(engine.url) == bool(engine.command):
        raise InvalidInput(f"{file.name}: [{name}] needs either url or command", field="engine")
    if engine.url and not engine.url.startswith(("http://", "https://")):
        raise InvalidInput(f"{file.name}: [{name}]: url must be http:// or https://")
    return engine


def read_key(engine: Engine) -> str:
    if not engine.key_file:
        return ""
    try:
        with Path(engine.key_file).open("rb") as stream:
            return stream.read(MAX_KEY_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as wrong:
        raise InvalidInput(f"key_file of the engine: {wrong}", field="engine") from None
