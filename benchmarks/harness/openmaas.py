"""OpenMaaS as a participant: `maas up` in a fresh home, both models published and deployed.

Nothing is switched off: every measured request carries a key that is checked, and is counted.
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

from harness.request_formats import OipBinary, OipJson
from harness.peers import ARTICLE, OUR_NAME, Door, Peer, Running, Site
from harness.processes import Server, ServerFailed, status_of


@contextlib.contextmanager
def _quiet_environment() -> Any:
    """The SDK reads its defaults from the environment; ours must not leak into a measurement."""
    kept = {k: os.environ.pop(k) for k in list(os.environ) if k.startswith("MAAS_")}
    try:
        yield
    finally:
        os.environ.update(kept)


def maas_command() -> list[str]:
    """The command of the environment that runs this script."""
    beside = Path(sys.executable).with_name("maas")
    if beside.is_file():
        return [str(beside)]
    return [sys.executable, "-m", "maas.cli.main"]


def up(site: Site, *, wait: bool = True) -> Server:
    """`maas up` with its home in `site.folder`, in the foreground, on `site.core`."""
    told = {
        "MAAS_HOME": str(site.folder / "home"),
        "MAAS_SERVER__PORT": str(site.port),
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        **{f"MAAS_SERVER__{name.upper()}": str(value) for name, value in site.options.items()},
    }
    server = Server([*maas_command(), "up"], core=site.core, log=site.log, environment=told)
    if wait:
        try:
            server.wait_ready(site.port, "/readyz")
        except BaseException:
            server.stop()
            raise
    return server


def admin_key(site: Site) -> str:
    return (site.folder / "home" / "admin.key").read_text().strip()


def client(site: Site) -> Any:
    """The SDK's client of this server, with the admin key."""
    import maas

    with _quiet_environment():
        return maas.Client(base_url=f"http://127.0.0.1:{site.port}", api_key=admin_key(site))


def publish(site: Site, name: str, model: Any, example: Any) -> None:
    """Publishes and deploys a model under its own name."""
    with contextlib.closing(client(site)) as sdk:
        sdk.publish(model, name=name, example=example)
        sdk.deploy(name, model=name)


def wait_deployed(port: int, name: str, headers: dict[str, str], timeout_s: float = 30) -> None:
    """Returns when the deployment answers for itself."""
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
        f"deployment {name} is not ready; GET /livez says {status_of(port, '/livez')}"
    )


@dataclass(frozen=True)
class OpenMaaS(Peer):
    def start(self, site: Site) -> Running:
        import numpy as np

        server = up(site)
        try:
            rows = {
                "article": np.arange(1, 11, dtype=np.float32),
                "image": np.zeros((3, 224, 224), dtype=np.float32),
            }
            headers = {"authorization": f"Bearer {admin_key(site)}"}
            for name, row in rows.items():
                publish(site, name, site.models / f"{name}.onnx", {"x": row})
                wait_deployed(site.port, name, headers)
        except ServerFailed:
            server.stop()
            raise
        except Exception as wrong:
            tail = server.tail()
            server.stop()
            raise ServerFailed(f"publishing failed: {wrong!r}\n{tail}") from wrong
        return Running(server, site.port, headers)


def _no_command(site: Site) -> Sequence[str]:
    return maas_command()


OPENMAAS = OpenMaaS(
    name=OUR_NAME,
    title="OpenMaaS",
    package="openmaas",
    requirements=[],
    command=_no_command,
    grid={
        "defaults; key check and usage counting on": {},
        "as by default, but sleeping at once": {"busy_poll_us": 0},
    },
    best=["defaults; key check and usage counting on"],
    doors=[
        Door("article", ARTICLE.dialect, "/predict/article"),
        Door("article", OipJson(), "/v2/models/article/infer"),
        Door("image", OipBinary(), "/v2/models/image/infer"),
        Door("noop", None, "/livez"),
    ],
    ready="/readyz",
)


def available() -> str:
    """Why OpenMaaS cannot take part from this environment, or ''."""
    done = subprocess.run(
        [sys.executable, "-c", "import maas; maas.Client"], capture_output=True, text=True
    )
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["?"])[-1]
