"""The other servers: how each is installed, started and called, and with which settings.

`grid` has every configuration that was tried; `best` names those that are published.
`python benchmarks/run.py --grid` measures all of them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.processes import Server
from benchmarks.harness.request_formats import OipBase64, OipBinary, OipJson, Plain, RequestFormat

SERVERS = Path(__file__).parent.parent / "peers"
ORT = "onnxruntime"
OUR_NAME = "openmaas"

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """One route of a server, with the format of its requests."""

    workload: str
    """article | image | noop"""
    request_format: RequestFormat | None
    """None: a GET request that does nothing."""
    path: str
    grpc: bool = False


@dataclass(frozen=True)
class LaunchContext:
    """Environment, ports and folders for the start of a server."""

    python: Path
    """Interpreter of the peer's virtual environment."""
    port: int
    spare_port: int
    options: Options
    models: Path
    """Folder with article.onnx and image.onnx."""
    folder: Path
    """Empty folder for files of this start."""
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
    """Headers of every request: the API key, if there is one."""
    grpc_port: int = 0


@dataclass(frozen=True)
class Peer:
    """A server that takes part in the benchmark."""

    name: str
    title: str
    package: str
    """Distribution whose version is shown after the title."""
    requirements: Sequence[str]
    command: Callable[[LaunchContext], Sequence[str]]
    grid: Mapping[str, Options]
    best: Sequence[str]
    """Published configurations: the one with the most requests/s at the largest number of
    connections (both of two without a significant difference), then the best one at one connection
    if it is a different one."""
    endpoints: Sequence[Endpoint]
    ready: str
    environment: str = ""
    """Name of a virtual environment shared with another peer; empty: its own."""

    def start(self, context: LaunchContext) -> Running:
        """Starts the server and returns when it is ready. Raises ServerFailed."""
        environment = {
            "BENCH_OPTIONS": json.dumps(dict(context.options)),
            "BENCH_MODELS": str(context.models),
            "PYTHONPATH": str(SERVERS),
        }
        server = Server(
            [str(part) for part in self.command(context)],
            core=context.core,
            log=context.log,
            environment=environment,
            folder=context.folder,
        )
        try:
            server.wait_ready(context.port, self.ready)
        except BaseException:
            server.stop()
            raise
        return Running(server, context.port, grpc_port=context.spare_port)


def _flask(context: LaunchContext) -> Sequence[Any]:
    if context.options["server"] == "development":
        return [context.python, SERVERS / "flask_app.py", context.port]
    if context.options["server"] == "waitress":
        return [
            context.python,
            SERVERS / "flask_waitress.py",
            context.port,
            context.options["threads"],
        ]
    gunicorn = [context.python, "-m", "gunicorn", "--bind", f"127.0.0.1:{context.port}"]
    gunicorn += ["--workers", 1, "--keep-alive", 75, "--log-level", "warning"]
    gunicorn += ["--worker-class", context.options["worker"]]
    if threads := context.options.get("threads"):
        gunicorn += ["--threads", threads]
    return [*gunicorn, "flask_app:app"]


def _fastapi(context: LaunchContext) -> Sequence[Any]:
    uvicorn = [context.python, "-m", "uvicorn", "fastapi_app:app", "--port", context.port]
    uvicorn += ["--loop", "uvloop", "--http", "httptools", "--workers", 1]
    return [*uvicorn, "--no-access-log", "--log-level", "warning"]


def _litserve(context: LaunchContext) -> Sequence[Any]:
    return [context.python, SERVERS / "litserve_app.py", context.port]


def _mosec(context: LaunchContext) -> Sequence[Any]:
    argv = [
        context.python,
        SERVERS / "mosec_app.py",
        "--address",
        "127.0.0.1",
        "--port",
        context.port,
    ]
    argv += ["--log-level", "warning", "--path", context.folder / "mosec.sock"]
    # mosec treats a wait of 0 as unset unless its command line has it, too.
    return argv + (["--wait", 0] if context.options["wait_ms"] == 0 else [])


def _mlserver(context: LaunchContext) -> Sequence[Any]:
    options = context.options
    settings = {
        "host": "127.0.0.1",
        "http_port": context.port,
        "grpc_port": context.spare_port,
        "debug": False,
        "metrics_endpoint": None,
        "gzip_enabled": False,
        "parallel_workers": options["workers"],
        "grpc_max_message_length": 64 << 20,
    }
    (context.folder / "settings.json").write_text(json.dumps(settings))
    for name, implementation in (("article", "Article"), ("image", "Image")):
        model = {"name": name, "implementation": f"mlserver_app.{implementation}"}
        if name == "article" and options["batch"] > 1:
            model |= {"max_batch_size": options["batch"], "max_batch_time": options["wait_s"]}
        (context.folder / name).mkdir()
        (context.folder / name / "model-settings.json").write_text(json.dumps(model))
    return [context.bin / "mlserver", "start", context.folder]


ARTICLE = Endpoint("article", Plain(), "/predict")
NOOP = Endpoint("noop", None, "/noop")

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
        endpoints=[ARTICLE, Endpoint("noop", None, "/")],
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
        endpoints=[ARTICLE, NOOP],
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
        endpoints=[ARTICLE, NOOP],
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
        endpoints=[ARTICLE, NOOP],
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
        endpoints=[ARTICLE, NOOP],
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
        endpoints=[
            Endpoint("article", OipJson(), "/v2/models/article/infer"),
            Endpoint("image", OipJson(), "/v2/models/image/infer"),
            Endpoint("image", OipBase64(), "/v2/models/image/infer"),
            Endpoint("image", OipBinary(), "/v2/models/image/infer", grpc=True),
            Endpoint("noop", None, "/v2/health/live"),
        ],
        ready="/v2/health/ready",
    ),
)
