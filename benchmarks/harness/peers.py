"""Who takes part: how each server is installed, started and asked, and with which settings.

`grid` holds every configuration that was tried; `best` names those that are published. Find the
winner anew with `python benchmarks/run.py --grid`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.request_formats import Dialect, OipBase64, OipBinary, OipJson, Plain
from harness.processes import Server

SERVERS = Path(__file__).parent.parent / "peers"
ORT = "onnxruntime"
OUR_NAME = "openmaas"

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Door:
    """One way to reach a model of a server."""

    workload: str
    """article | image | noop"""
    dialect: Dialect | None
    """None: a GET that does nothing."""
    path: str
    grpc: bool = False


@dataclass(frozen=True)
class Site:
    """What a server gets to start with."""

    python: Path
    """Of the peer's virtual environment."""
    port: int
    spare_port: int
    options: Options
    models: Path
    """Folder with article.onnx and image.onnx."""
    folder: Path
    """Empty, for files of this start."""
    log: Path
    core: int | None
    """None: not pinned."""

    @property
    def bin(self) -> Path:
        return self.python.parent


@dataclass(frozen=True)
class Running:
    """A started server."""

    server: Server
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request: the key, where there is one."""
    grpc_port: int = 0


@dataclass(frozen=True)
class Peer:
    name: str
    title: str
    package: str
    """The distribution whose version stands behind the title."""
    requirements: Sequence[str]
    command: Callable[[Site], Sequence[str]]
    grid: Mapping[str, Options]
    best: Sequence[str]
    """The configurations that are published: the one with the most requests/s at the largest number
    of connections (two that cannot be told apart are both shown), then, where it is another, the
    best at one connection."""
    doors: Sequence[Door]
    ready: str
    environment: str = ""
    """Virtual environment, when it is shared with another peer; else one of its own."""

    def start(self, site: Site) -> Running:
        """Starts the server and returns when it is ready. Raises ServerFailed."""
        told = {
            "BENCH_OPTIONS": json.dumps(dict(site.options)),
            "BENCH_MODELS": str(site.models),
            "PYTHONPATH": str(SERVERS),
        }
        server = Server(
            [str(part) for part in self.command(site)],
            core=site.core,
            log=site.log,
            environment=told,
            folder=site.folder,
        )
        try:
            server.wait_ready(site.port, self.ready)
        except BaseException:
            server.stop()
            raise
        return Running(server, site.port, grpc_port=site.spare_port)


def _flask(site: Site) -> Sequence[Any]:
    if site.options["server"] == "development":
        return [site.python, SERVERS / "flask_app.py", site.port]
    if site.options["server"] == "waitress":
        return [site.python, SERVERS / "flask_waitress.py", site.port, site.options["threads"]]
    gunicorn = [site.python, "-m", "gunicorn", "--bind", f"127.0.0.1:{site.port}"]
    gunicorn += ["--workers", 1, "--keep-alive", 75, "--log-level", "warning"]
    gunicorn += ["--worker-class", site.options["worker"]]
    if threads := site.options.get("threads"):
        gunicorn += ["--threads", threads]
    return [*gunicorn, "flask_app:app"]


def _fastapi(site: Site) -> Sequence[Any]:
    uvicorn = [site.python, "-m", "uvicorn", "fastapi_app:app", "--port", site.port]
    uvicorn += ["--loop", "uvloop", "--http", "httptools", "--workers", 1]
    return [*uvicorn, "--no-access-log", "--log-level", "warning"]


def _litserve(site: Site) -> Sequence[Any]:
    return [site.python, SERVERS / "litserve_app.py", site.port]


def _mosec(site: Site) -> Sequence[Any]:
    argv = [site.python, SERVERS / "mosec_app.py", "--address", "127.0.0.1", "--port", site.port]
    argv += ["--log-level", "warning", "--path", site.folder / "mosec.sock"]
    # mosec reads a wait of 0 as "not given" unless its command line says 0 as well.
    return argv + (["--wait", 0] if site.options["wait_ms"] == 0 else [])


def _mlserver(site: Site) -> Sequence[Any]:
    options = site.options
    settings = {
        "host": "127.0.0.1",
        "http_port": site.port,
        "grpc_port": site.spare_port,
        "debug": False,
        "metrics_endpoint": None,
        "gzip_enabled": False,
        "parallel_workers": options["workers"],
        "grpc_max_message_length": 64 << 20,
    }
    (site.folder / "settings.json").write_text(json.dumps(settings))
    for name, implementation in (("article", "Article"), ("image", "Image")):
        model = {"name": name, "implementation": f"mlserver_app.{implementation}"}
        if name == "article" and options["batch"] > 1:
            model |= {"max_batch_size": options["batch"], "max_batch_time": options["wait_s"]}
        (site.folder / name).mkdir()
        (site.folder / name / "model-settings.json").write_text(json.dumps(model))
    return [site.bin / "mlserver", "start", site.folder]


ARTICLE = Door("article", Plain(), "/predict")
NOOP = Door("noop", None, "/noop")

PEERS: tuple[Peer, ...] = (
    Peer(
        name="mosec",
        title="mosec",
        package="mosec",
        requirements=["mosec", "numpy", ORT, "orjson"],
        command=_mosec,
        grid={
            "batch 64, wait 0 ms": {"batch": 64, "wait_ms": 0},
            "batch 64, wait 1 ms": {"batch": 64, "wait_ms": 1},
            "batch 64, wait 2 ms": {"batch": 64, "wait_ms": 2},
            "batch 32, wait 0 ms": {"batch": 32, "wait_ms": 0},
            "batch 32, wait 1 ms": {"batch": 32, "wait_ms": 1},
            "no batching": {"batch": 1, "wait_ms": 1},
        },
        best=["batch 64, wait 1 ms", "batch 64, wait 0 ms", "no batching"],
        doors=[ARTICLE, Door("noop", None, "/")],
        ready="/",
    ),
    Peer(
        name="fastapi",
        title="FastAPI + uvicorn",
        package="fastapi",
        requirements=["fastapi", "uvicorn", "uvloop", "httptools", "orjson", "numpy", ORT],
        command=_fastapi,
        grid={
            "pydantic in and out": {"handler": "typed"},
            "pydantic in, orjson out": {"handler": "mixed"},
            "orjson in and out": {"handler": "raw"},
        },
        best=["orjson in and out"],
        doors=[ARTICLE, NOOP],
        ready="/noop",
    ),
    Peer(
        name="flask",
        title="Flask",
        package="Flask",
        requirements=["flask", "gunicorn", "gevent", "waitress", "orjson", "numpy", ORT],
        command=_flask,
        grid={
            "gunicorn gevent": {"server": "gunicorn", "worker": "gevent"},
            "gunicorn gthread, 4 threads": {
                "server": "gunicorn",
                "worker": "gthread",
                "threads": 4,
            },
            "gunicorn gthread, 64 threads": {
                "server": "gunicorn",
                "worker": "gthread",
                "threads": 64,
            },
            "gunicorn sync": {"server": "gunicorn", "worker": "sync"},
            "waitress, 1 thread": {"server": "waitress", "threads": 1},
            "waitress, 4 threads": {"server": "waitress", "threads": 4},
        },
        best=["waitress, 4 threads"],
        doors=[ARTICLE, NOOP],
        ready="/noop",
    ),
    Peer(
        name="flask-dev",
        title="Flask, development server",
        package="Flask",
        requirements=["flask", "gunicorn", "gevent", "waitress", "orjson", "numpy", ORT],
        command=_flask,
        grid={"as in tutorials": {"server": "development"}},
        best=["as in tutorials"],
        doors=[ARTICLE, NOOP],
        ready="/noop",
        environment="flask",
    ),
    Peer(
        name="litserve",
        title="LitServe",
        package="litserve",
        requirements=["litserve", "uvloop", "httptools", "orjson", "numpy", ORT],
        command=_litserve,
        grid={
            "fast queue, batch 32, wait 0 ms": {"fast_queue": True, "batch": 32, "wait_s": 0.0},
            "fast queue, batch 32, wait 2 ms": {"fast_queue": True, "batch": 32, "wait_s": 0.002},
            "fast queue, batch 32, wait 10 ms": {"fast_queue": True, "batch": 32, "wait_s": 0.01},
            "fast queue, no batching": {"fast_queue": True, "batch": 1, "wait_s": 0.0},
            "fast queue, batch 32, wait 2 ms, 2 API servers": {
                "fast_queue": True,
                "batch": 32,
                "wait_s": 0.002,
                "api_servers": 2,
            },
            "default queue, batch 32, wait 2 ms": {
                "fast_queue": False,
                "batch": 32,
                "wait_s": 0.002,
            },
        },
        best=["fast queue, batch 32, wait 2 ms"],
        doors=[ARTICLE, NOOP],
        ready="/health",
    ),
    Peer(
        name="mlserver",
        title="MLServer",
        package="mlserver",
        requirements=["mlserver", "uvloop", "httptools", "orjson", "numpy", ORT],
        command=_mlserver,
        grid={
            "no workers, no batching": {"workers": 0, "batch": 0},
            "no workers, batch 32, wait 2 ms": {"workers": 0, "batch": 32, "wait_s": 0.002},
            "no workers, batch 64, wait 1 ms": {"workers": 0, "batch": 64, "wait_s": 0.001},
            "no workers, batch 32, wait 10 ms": {"workers": 0, "batch": 32, "wait_s": 0.01},
            "1 worker, no batching": {"workers": 1, "batch": 0},
            "1 worker, batch 32, wait 2 ms": {"workers": 1, "batch": 32, "wait_s": 0.002},
        },
        best=["no workers, no batching"],
        doors=[
            Door("article", OipJson(), "/v2/models/article/infer"),
            Door("image", OipJson(), "/v2/models/image/infer"),
            Door("image", OipBase64(), "/v2/models/image/infer"),
            Door("image", OipBinary(), "/v2/models/image/infer", grpc=True),
            Door("noop", None, "/v2/health/live"),
        ],
        ready="/v2/health/ready",
    ),
)
