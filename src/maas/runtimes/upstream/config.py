"""External engines, which the operator configures in the file `serving.engines_file`: servers with
OpenAI's API, at a URL or as a command that the replica starts.

    [rented]
    url = "https://inference.example.org/v1"
    key_file = "/etc/maas/rented.key"

    [vllm]
    command = ["/opt/vllm/bin/vllm", "serve", "{directory}", "--port", "{port}"]
    environment = { VLLM_API_KEY = "{key}" }
    json_schema = true

Clients cannot set a URL or command; a variant's option `engine` names a table.
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
    """A table of the file."""

    url: str = ""
    """Base URL of the API, with its `/v1`; for a command, the replica sets it."""
    key_file: str = ""
    """File with the API key for `url`; empty: no key is sent."""
    command: list[str] = []
    """Program and arguments. `{port}`, `{key}`, `{model}` (the variant's first file) and
    `{directory}` (with all its files) are replaced. No shell is involved."""
    environment: dict[str, str] = {}
    """Environment of the command, with the same replacements. Prefer it for the key: other users
    can read the arguments of a process."""
    model: str = ""
    """The engine's name for the model; empty: the first that it lists."""
    context_length: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    """Tokens; 0: as the engine reports, else 8192."""
    json_schema: bool = False
    """Whether the engine enforces JSON schemas; otherwise such requests are refused."""
    extra_body: dict[str, Any] = {}
    """Fields added to each request, for example to have usage in every chunk."""
    ready_s: Annotated[float, Meta(gt=0, le=3600)] = 280.0
    """Seconds until the engine must answer."""


def read_engine(file: Path | None, name: object) -> Engine:
    """The engine `name` of the file. Raises InvalidInput if it is missing or invalid."""
    if file is None:
        raise InvalidInput(
            "the runtime upstream needs the setting serving.engines_file, a file in which the "
            "operator configures engines",
            field="engine",
        )
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise InvalidInput(f"{file.name} has more than {MAX_FILE_BYTES} bytes")
        tables = tomllib.loads(file.read_text())
    except (OSError, ValueError) as wrong:
        raise InvalidInput(f"{file.name}: {wrong}", field="engine") from None
    if not isinstance(name, str) or name not in tables:
        names = ", ".join(tables) or "none"
        raise InvalidInput(
            f"option engine must name an engine of {file.name}, which has {names}; got "
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
    """The API key of an engine; empty if it has none. Raises InvalidInput."""
    if not engine.key_file:
        return ""
    try:
        with Path(engine.key_file).open("rb") as stream:
            return stream.read(MAX_KEY_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as wrong:
        raise InvalidInput(f"key_file of the engine: {wrong}", field="engine") from None
