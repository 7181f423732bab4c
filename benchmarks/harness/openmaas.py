"""OpenMaaS as a participant: `maas up` with a new home, both models published and deployed.

Nothing is disabled: every measured request has a key that is checked, and its usage is counted.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.peers import ARTICLE, OUR_NAME, Endpoint, LaunchContext, Peer, Running
from benchmarks.harness.processes import Server, ServerFailed, status_of
from benchmarks.harness.request_formats import OipBinary, OipJson


@contextlib.contextmanager
def _quiet_environment() -> Any:
    """Removes the variables of this environment that the SDK would read as defaults."""
    variables = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith("MAAS_")}
    try:
        yield
    finally:
        os.environ.update(variables)


def maas_command() -> list[str]:
    """`maas` in the environment that runs this script."""
    script = Path(sys.executable).with_name("maas")
    if script.is_file():
        return [str(script)]
    return [sys.executable, "-m", "maas.cli.main"]


def up(context: LaunchContext, *, wait: bool = True) -> Server:
    """`maas up` with its home in `context.folder`, in the foreground, on `context.core`."""
    environment = {
        "MAAS_HOME": str(context.folder / "home"),
        "MAAS_SERVER__PORT": str(context.port),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        **{f"MAAS_SERVER__{name.upper()}": str(value) for name, value in context.options.items()},
    }
    server = Server(
        [*maas_command(), "up"], core=context.core, log=context.log, environment=environment
    )
    if wait:
        try:
            server.wait_ready(context.port, "/readyz")
        except BaseException:
            server.stop()
            raise
    return server


def admin_key(context: LaunchContext) -> str:
    return (context.folder / "home" / "admin.key").read_text().strip()


def client(context: LaunchContext) -> Any:
    """A client of the SDK with the admin key."""
    import maas

    with _quiet_environment():
        return maas.Client(base_url=f"http://127.0.0.1:{context.port}", api_key=admin_key(context))


def publish(context: LaunchContext, name: str, model: Any, example: Any) -> None:
    """Publishes a model and deploys it with the same name."""
    with contextlib.closing(client(context)) as sdk:
        sdk.publish(model, name=name, example=example)
        sdk.deploy(name, model=name)


def wait_deployed(port: int, name: str, headers: dict[str, str], timeout_s: float = 30) -> None:
    """Returns when the deployment is ready. Raises ServerFailed after `timeout_s`."""
    import http.client

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", f"/v2/models/{name}/ready", headers=headers)
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise ServerFailed(
        f"deployment {name} is not ready; the status of GET /livez is {status_of(port, '/livez')}"
    )


@dataclass(frozen=True)
class OpenMaaS(Peer):
    """OpenMaaS, whose models are published and deployed after its start."""

    def start(self, context: LaunchContext) -> Running:
        import numpy as np

        server = up(context)
        try:
            rows = {
                "article": np.arange(1, 11, dtype=np.float32),
                "image": np.zeros((3, 224, 224), dtype=np.float32),
            }
            headers = {"authorization": f"Bearer {admin_key(context)}"}
            for name, row in rows.items():
                publish(context, name, context.models / f"{name}.onnx", {"x": row})
                wait_deployed(context.port, name, headers)
        except ServerFailed:
            server.stop()
            raise
        except Exception as error:
            tail = server.tail()
            server.stop()
            raise ServerFailed(f"publishing failed: {error!r}\n{tail}") from error
        return Running(server, context.port, headers)


def _no_command(context: LaunchContext) -> Sequence[str]:
    return maas_command()


OPENMAAS = OpenMaaS(
    name=OUR_NAME,
    title="OpenMaaS",
    package="openmaas",
    requirements=[],
    command=_no_command,
    grid={
        "defaults; key check and usage counting on": {},
        "defaults, without busy polling": {"busy_poll_us": 0},
    },
    best=["defaults; key check and usage counting on"],
    endpoints=[
        Endpoint("article", ARTICLE.request_format, "/predict/article"),
        Endpoint("article", OipJson(), "/v2/models/article/infer"),
        Endpoint("image", OipBinary(), "/v2/models/image/infer"),
        Endpoint("noop", None, "/livez"),
    ],
    ready="/readyz",
)


def available() -> str:
    """Reason why this environment cannot run OpenMaaS; empty if it can."""
    done = subprocess.run(
        [sys.executable, "-c", "import maas; maas.Client"], capture_output=True, text=True
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1]
