"""All settings; the only module that reads the environment.

Precedence: command-line flag > environment > `maas.toml` > default. In the environment a setting
is `MAAS_SECTION__KEY`, for example `MAAS_SERVER__PORT=9000`. An unknown key is an error.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from maas.domain.names import did_you_mean


class ConfigurationError(Exception):
    """A setting is unknown or has an invalid value."""


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    """Port to listen on."""
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    """Number of gateway processes. One gateway handles more requests than a model on one core can
    answer."""
    insecure: bool = False
    """Allows a non-loopback `host` without TLS."""
    tls_cert: str = ""
    """PEM file with the certificate chain. Enables TLS (1.2 or newer); plain HTTP is then
    refused."""
    tls_key: str = ""
    """PEM file with the private key; empty: the key is in `tls_cert`."""
    allowed_hosts: tuple[str, ...] = ()
    """Accepted values of the Host header, in addition to loopback names and `host`."""
    max_json_bytes: Annotated[int, Meta(ge=1024)] = 8 << 20
    """Maximum size of a prediction's JSON body. Bodies over 64 KiB are parsed in a thread, one at
    a time."""
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 64 << 20
    """Maximum size of a prediction's body with binary tensors."""
    max_file_bytes: Annotated[int, Meta(ge=1024)] = 64 << 30
    """Maximum size of a published file."""
    request_timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    """Timeout of a request. A client may ask for a shorter one."""
    generation_timeout_s: Annotated[float, Meta(gt=0)] = 600.0
    """Timeout of a text generation. A client may ask for a shorter one."""
    busy_poll_us: Annotated[int, Meta(ge=0, le=10_000)] = 500
    """Longest busy polling in microseconds: while clients send their next request within this
    time, an idle gateway polls for it before it sleeps. 0 disables busy polling, which is better
    where CPU time is limited."""
    drain_s: Annotated[float, Meta(ge=0)] = 30.0
    """Time for accepted requests to finish after SIGTERM."""


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    database_url: str = ""
    """URL of the database, `sqlite:////path` or `postgresql://…`; empty: a SQLite file in the
    home."""
    artifacts_url: str = ""
    """URL of the artifact store, `file:///path` or `s3://bucket/prefix`; empty: a directory in the
    home."""
    s3_endpoint: str = ""
    """URL of the S3 service; empty: AWS."""
    s3_region: str = "us-east-1"
    """Region of the bucket."""
    s3_access_key_id: str = ""
    """Access key ID; empty: credentials of the machine's role or of the AWS environment."""
    s3_secret_access_key: str = ""
    """Secret access key for `s3_access_key_id`."""


class ServingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ready_timeout_s: Annotated[float, Meta(gt=0)] = 300.0
    """Time for a replica to load its model and answer the first request."""
    hang_timeout_s: Annotated[float, Meta(gt=0)] = 10.0
    """A replica that has work and makes no progress for this long is replaced."""
    crash_backoff_s: Annotated[float, Meta(ge=0)] = 0.25
    """Delay before a crashed replica is replaced; doubles with each crash, up to one minute."""
    engines_file: str = ""
    """TOML file with the external engines of the runtime `upstream`; empty: none."""


class LogsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_bytes: Annotated[int, Meta(ge=1024)] = 20 << 20
    """Size at which a log file is rotated. Checked with every log line, and once a second for the
    output of libraries."""
    files: Annotated[int, Meta(ge=2, le=1000)] = 3
    """Maximum number of log files per process, including the current one."""


class ClientSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    base_url: str = ""
    """URL of the server; empty: the server of this home."""
    api_key: str = ""
    """API key; empty: the admin key of this home."""


class PullSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_bytes: Annotated[int, Meta(ge=1024)] = 64 << 30
    """Maximum size of a file that `maas pull` downloads."""
    ca_file: str = ""
    """PEM file with certificates to trust for downloads, in addition to the system's."""
    hf_endpoint: str = ""
    """URL of a server with the API of the Hugging Face Hub; empty: the Hub."""
    s3_endpoint: str = ""
    """URL of the S3 service; empty: AWS."""
    s3_region: str = "us-east-1"
    """Region of the bucket."""
    s3_access_key_id: str = ""
    """Access key ID; empty: credentials of the AWS environment."""
    s3_secret_access_key: str = ""
    """Secret access key for `s3_access_key_id`."""
    gs_service_account_file: str = ""
    """JSON key file of a Google service account; empty: credentials of the Google environment."""
    az_account: str = ""
    """Name of the Azure storage account; empty: the Azure environment."""
    az_access_key: str = ""
    """Access key of `az_account`."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings, and the paths in the home that follow from them."""

    home: str
    server: ServerSettings = msgspec.field(default_factory=ServerSettings)
    storage: StorageSettings = msgspec.field(default_factory=StorageSettings)
    serving: ServingSettings = msgspec.field(default_factory=ServingSettings)
    logs: LogsSettings = msgspec.field(default_factory=LogsSettings)
    client: ClientSettings = msgspec.field(default_factory=ClientSettings)
    pull: PullSettings = msgspec.field(default_factory=PullSettings)

    @property
    def home_path(self) -> Path:
        return Path(self.home)

    @property
    def run_dir(self) -> Path:
        """Directory of sockets, the routing snapshot and the lock; every start rebuilds it."""
        return self.home_path / "run"

    @property
    def log_dir(self) -> Path:
        return self.home_path / "logs"

    @property
    def usage_dir(self) -> Path:
        """Directory of the gateways' usage counters, which may not be in the database yet."""
        return self.home_path / "usage"

    @property
    def cache_dir(self) -> Path:
        """Directory of files from the artifact store that replicas load, by SHA-256."""
        return self.home_path / "cache"

    @property
    def jobs_dir(self) -> Path:
        return self.home_path / "jobs"

    @property
    def pulls_dir(self) -> Path:
        """Directory of unfinished downloads of `maas pull`."""
        return self.home_path / "pulls"

    @property
    def admin_key_file(self) -> Path:
        return self.home_path / "admin.key"

    @property
    def control_socket(self) -> Path:
        return self.run_dir / "control.sock"

    @property
    def snapshot_file(self) -> Path:
        return self.run_dir / "snapshot.json"

    @property
    def database_url(self) -> str:
        return self.storage.database_url or f"sqlite:///{self.home_path / 'maas.db'}"

    @property
    def artifacts_url(self) -> str:
        return self.storage.artifacts_url or (self.home_path / "artifacts").as_uri()

    @property
    def base_url(self) -> str:
        """URL of the configured server, else of the running server of this home, else of the one
        that `maas up` would start."""
        if self.client.base_url:
            return self.client.base_url
        server = self._running_server() or self.server
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if server.tls_cert else 'http'}://{host}:{server.port}"

    def _running_server(self) -> ServerSettings | None:
        """The settings that this home's server was started with; None if none is running.

        The port of the present settings may belong to another server, which must not get this
        home's key.
        """
        if not (self.run_dir / "supervisor.pid").exists():
            return None
        try:
            return Settings.from_json((self.run_dir / "settings.json").read_text()).server
        except (OSError, msgspec.MsgspecError):
            return None

    @property
    def api_key(self) -> str:
        """The configured key, else this home's admin key, else ''."""
        if self.client.api_key or self.client.base_url:
            return self.client.api_key
        try:
            return self.admin_key_file.read_text().strip()
        except OSError:
            return ""

    def to_json(self) -> str:
        """All settings as JSON, so that a child process needs no environment."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Settings:
        return msgspec.json.decode(text, type=cls)


_ALIASES = {
    "MAAS_BASE_URL": ("client", "base_url"),
    "MAAS_API_KEY": ("client", "api_key"),
}
_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "server": ServerSettings,
    "storage": StorageSettings,
    "serving": ServingSettings,
    "logs": LogsSettings,
    "client": ClientSettings,
    "pull": PullSettings,
}


def load(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """The settings from flags (`{"server.port": 9000}`), environment and file, in that order.

    `file` defaults to `maas.toml` in the working directory, then in the home. Raises
    ConfigurationError that names the key, the expected value and the origin of the value.
    """
    env = os.environ if environment is None else environment
    flags = dict(flags or {})
    home = Path(str(flags.pop("home", None) or env.get("MAAS_HOME") or Path.home() / ".maas"))
    home = home.expanduser().absolute()
    values = _Values()
    _read_file(values, [file] if file else [Path("maas.toml"), home / "maas.toml"], bool(file))
    _read_environment(values, env)
    for dotted, value in flags.items():
        if value is not None:
            section, _, key = dotted.partition(".")
            values.put(section, key, value, f"--{key.replace('_', '-')}")
    return Settings(home=str(home), **values.sections())


class _Values:
    """Values by section and key, later over earlier, and the origin of each."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
        self._origins: dict[tuple[str, str], str] = {}

    def put(self, section: str, key: str, value: Any, where: str) -> None:
        struct = _SECTIONS.get(section)
        if struct is None:
            raise ConfigurationError(
                f"{where}: unknown section [{section}]{_hint(section, _SECTIONS)}"
            )
        if key not in struct.__struct_fields__:
            raise ConfigurationError(
                f"{where}: unknown key {key!r} in [{section}]{_hint(key, struct.__struct_fields__)}"
            )
        self._values[section][key] = value
        self._origins[section, key] = where

    def sections(self) -> dict[str, Any]:
        """The validated section structs, by name."""
        out: dict[str, Any] = {}
        for section, struct in _SECTIONS.items():
            values = self._values[section]
            for key, value in values.items():
                try:
                    msgspec.convert({key: value}, struct, strict=False)
                except msgspec.ValidationError as error:
                    where = self._origins[section, key]
                    raise ConfigurationError(f"{where}: {section}.{key}: {error}") from None
            out[section] = msgspec.convert(values, struct, strict=False)
        return out


def _read_file(values: _Values, candidates: list[Path], must_exist: bool) -> None:
    """Adds the values of the first candidate that exists."""
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        if must_exist:
            raise ConfigurationError(f"{candidates[0]}: no such file")
        return
    for section, keys in _read_toml(path).items():
        if not isinstance(keys, dict):
            raise ConfigurationError(f"{path}: {section!r} must be a section, [{section}]")
        for key, value in keys.items():
            values.put(section, key, value, str(path))


def _read_environment(values: _Values, environment: Mapping[str, str]) -> None:
    for name, text in environment.items():
        if name in _ALIASES:
            values.put(*_ALIASES[name], text, name)
        elif name.startswith("MAAS_") and name != "MAAS_HOME":
            section, separator, key = name.removeprefix("MAAS_").lower().partition("__")
            if not separator:
                raise ConfigurationError(f"{name}: unknown setting; use MAAS_SECTION__KEY")
            value = text.split(",") if key == "allowed_hosts" else text
            values.put(section, key, value, name)


GOMP_SPINS = "1000"
"""Spins of a thread of GNU OpenMP before it sleeps, about 20 µs. llama.cpp's threads synchronize
hundreds of times per token. With OpenMP's default of 300,000, a thread that waits for another one
whose core is used by another process burns milliseconds each time."""


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a child process: this process's environment and `extra`.

    It has no settings of OpenMaaS, which children get as JSON. The thread pools of numeric
    libraries have one thread unless the environment sets them.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(pool, "1")
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", GOMP_SPINS)
    return environment | extra


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _hint(word: str, names: Collection[str]) -> str:
    return did_you_mean(word, names) or f"; expected one of {', '.join(names)}"
