"""All settings, and the only place that reads the environment.

Precedence: command-line flag > environment > `maas.toml` > default. In the environment a setting
is `MAAS_SECTION__KEY`, for example `MAAS_SERVER__PORT=9000`. A key that nobody knows is an error.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta


class ConfigurationError(Exception):
    """A setting is unknown or has a value that it cannot have."""


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    """Port to listen on."""
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    """Gateway processes; one answers more requests than one core of model can take."""
    insecure: bool = False
    """Permits a non-loopback `host` without TLS."""
    tls_cert: str = ""
    """PEM file with the certificate chain; with it the server speaks TLS 1.2 or newer only."""
    tls_key: str = ""
    """PEM file with its private key; empty: it is in `tls_cert`."""
    allowed_hosts: tuple[str, ...] = ()
    """Values of the Host header that are served besides loopback names and `host` itself."""
    max_json_bytes: Annotated[int, Meta(ge=1024)] = 8 << 20
    """Largest JSON of a prediction. What is over 64 KiB is read in a thread, one after another."""
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 64 << 20
    """Largest body of a prediction with binary tensors."""
    max_file_bytes: Annotated[int, Meta(ge=1024)] = 64 << 30
    """Largest file that may be published."""
    request_timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    """Longest that a request may take; a caller may ask for less."""
    generation_timeout_s: Annotated[float, Meta(gt=0)] = 600.0
    """Longest that writing a text may take; a caller may ask for less."""
    busy_poll_us: Annotated[int, Meta(ge=0, le=10_000)] = 500
    """While callers come back within this many microseconds, a gateway with nothing in flight looks
    for their next request for as long before it sleeps; 0: it sleeps at once, which is
    better where processor time is rationed."""
    drain_s: Annotated[float, Meta(ge=0)] = 30.0
    """How long accepted requests may take after SIGTERM."""


class StorageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    database_url: str = ""
    """`sqlite:////path` or `postgresql://…`; empty: a SQLite file in the home."""
    artifacts_url: str = ""
    """`file:///path` or `s3://bucket/prefix`; empty: a directory in the home."""
    s3_endpoint: str = ""
    """URL of an S3 service; empty: that of AWS."""
    s3_region: str = "us-east-1"
    """Region of the bucket."""
    s3_access_key_id: str = ""
    """Empty: those of the machine's role or of the AWS environment."""
    s3_secret_access_key: str = ""
    """Belongs to `s3_access_key_id`."""


class ServingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ready_timeout_s: Annotated[float, Meta(gt=0)] = 300.0
    """How long a replica may take to load its model and answer for the first time."""
    hang_timeout_s: Annotated[float, Meta(gt=0)] = 10.0
    """A replica that makes no progress for this long while it has work is replaced."""
    crash_backoff_s: Annotated[float, Meta(ge=0)] = 0.25
    """Pause before a crashed replica's replacement; doubles with each crash up to a minute."""
    engines_file: str = ""
    """TOML file that names engines of others for the runtime `upstream`; empty: there are none."""


class LogsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_bytes: Annotated[int, Meta(ge=1024)] = 20 << 20
    """Size at which a process begins a new log file; looked at with each line, and once a second
    for what libraries print."""
    files: Annotated[int, Meta(ge=2, le=1000)] = 3
    """Log files that are kept of each process, with the one that it writes."""


class ClientSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    base_url: str = ""
    """Empty: the server of this home."""
    api_key: str = ""
    """Empty: the admin key of this home."""


class PullSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_bytes: Annotated[int, Meta(ge=1024)] = 64 << 30
    """Largest file that `maas pull` brings to this machine."""
    ca_file: str = ""
    """PEM file with certificates that downloads trust besides the system's."""
    hf_endpoint: str = ""
    """Another server that speaks like the Hugging Face Hub; empty: the Hub."""
    s3_endpoint: str = ""
    """URL of an S3 service; empty: that of AWS."""
    s3_region: str = "us-east-1"
    """Region of the bucket."""
    s3_access_key_id: str = ""
    """Empty: those of the AWS environment."""
    s3_secret_access_key: str = ""
    """Belongs to `s3_access_key_id`."""
    gs_service_account_file: str = ""
    """JSON key of a Google service account; empty: the Google environment."""
    az_account: str = ""
    """Name of an Azure storage account; empty: the Azure environment."""
    az_access_key: str = ""
    """Belongs to `az_account`."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
        """Sockets, the routing snapshot, the lock: everything that a start makes anew."""
        return self.home_path / "run"

    @property
    def log_dir(self) -> Path:
        return self.home_path / "logs"

    @property
    def usage_dir(self) -> Path:
        """Usage counters of gateways that the database may not have yet."""
        return self.home_path / "usage"

    @property
    def cache_dir(self) -> Path:
        """Files of the artifact store that replicas load, by SHA-256."""
        return self.home_path / "cache"

    @property
    def jobs_dir(self) -> Path:
        return self.home_path / "jobs"

    @property
    def pulls_dir(self) -> Path:
        """Unfinished downloads of `maas pull`."""
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
        """Of the configured server, else of the one that runs for this home, else of the one that
        `maas up` would start."""
        if self.client.base_url:
            return self.client.base_url
        server = self._running_server() or self.server
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if server.tls_cert else 'http'}://{host}:{server.port}"

    def _running_server(self) -> ServerSettings | None:
        """What this home's server was started with; another's must not get this home's key."""
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
        """For a child process, which then needs no environment."""
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
    ConfigurationError that names the key, what was expected and where the value came from.
    """
    env = os.environ if environment is None else environment
    flags = dict(flags or {})
    home = Path(str(flags.pop("home", None) or env.get("MAAS_HOME") or Path.home() / ".maas"))
    home = home.expanduser().absolute()
    given = _Given()
    _take_file(given, [file] if file else [Path("maas.toml"), home / "maas.toml"], bool(file))
    _take_environment(given, env)
    for dotted, value in flags.items():
        if value is not None:
            section, _, key = dotted.partition(".")
            given.put(section, key, value, f"--{key.replace('_', '-')}")
    return Settings(home=str(home), **given.sections())


class _Given:
    """What was given so far, later over earlier, and where each value came from."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
        self._origins: dict[tuple[str, str], str] = {}

    def put(self, section: str, key: str, value: Any, where: str) -> None:
        known = _SECTIONS.get(section)
        if known is None:
            raise ConfigurationError(
                f"{where}: there is no section [{section}]{_hint(section, _SECTIONS)}"
            )
        if key not in known.__struct_fields__:
            raise ConfigurationError(
                f"{where}: [{section}] has no key {key!r}{_hint(key, known.__struct_fields__)}"
            )
        self._values[section][key] = value
        self._origins[section, key] = where

    def sections(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for section, kind in _SECTIONS.items():
            values = self._values[section]
            for key, value in values.items():
                try:
                    msgspec.convert({key: value}, kind, strict=False)
                except msgspec.ValidationError as wrong:
                    where = self._origins[section, key]
                    raise ConfigurationError(f"{where}: {section}.{key}: {wrong}") from None
            out[section] = msgspec.convert(values, kind, strict=False)
        return out


def _take_file(given: _Given, candidates: list[Path], must_exist: bool) -> None:
    """The first of the files that is there."""
    path = next((p for p in candidates if p.is_file()), None)
    if path is None:
        if must_exist:
            raise ConfigurationError(f"{candidates[0]}: no such file")
        return
    for section, keys in _read_toml(path).items():
        if not isinstance(keys, dict):
            raise ConfigurationError(f"{path}: {section!r} must be a section, [{section}]")
        for key, value in keys.items():
            given.put(section, key, value, str(path))


def _take_environment(given: _Given, environment: Mapping[str, str]) -> None:
    for name, text in environment.items():
        if name in _ALIASES:
            given.put(*_ALIASES[name], text, name)
        elif name.startswith("MAAS_") and name != "MAAS_HOME":
            section, separator, key = name.removeprefix("MAAS_").lower().partition("__")
            if not separator:
                raise ConfigurationError(f"{name}: no such setting; use MAAS_SECTION__KEY")
            value = text.split(",") if key == "allowed_hosts" else text
            given.put(section, key, value, name)


GOMP_SPINS = "1000"
"""How often a thread of GNU's OpenMP looks before it sleeps, about 20 µs; llama.cpp's threads meet
hundreds of times for a token. With OpenMP's own 300,000 each that waits for a thread whose core
another process uses burns milliseconds every time."""


def child_environment(**extra: str) -> dict[str, str]:
    """The environment for a process of ours: without our settings, which travel as JSON, and
    with the thread pools of numeric libraries held to one thread unless they are set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        kept.setdefault(pool, "1")
    if "OMP_WAIT_POLICY" not in kept:
        kept.setdefault("GOMP_SPINCOUNT", GOMP_SPINS)
    return kept | extra


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as wrong:
        raise ConfigurationError(f"{path}: {wrong}") from None


def _hint(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
