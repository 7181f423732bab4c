"""Time to start, publish and recover, and the memory of OpenMaaS's processes.

`python benchmarks/start_and_memory.py --runs 5` starts `maas up` with new homes and prints one
table. No process is pinned to a core.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402

from benchmarks.harness import machine, models, openmaas  # noqa: E402
from benchmarks.harness.models import Workload  # noqa: E402
from benchmarks.harness.peers import LaunchContext  # noqa: E402
from benchmarks.harness.processes import Server, ServerFailed, free_port, memory_of, status_of  # noqa: E402
from benchmarks.harness.stats import spread  # noqa: E402

ROLES = ("gateway", "control", "replica")
TIMEOUT_S = 30.0
STATUS = "/api/v1/status"


class Table:
    """Measured values, in the order of their first measurement."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], list[float]] = {}

    def add(self, what: str, unit: str, value: float) -> None:
        self.values.setdefault((what, unit), []).append(value)

    def __str__(self) -> str:
        lines = [["figure", "median", "smallest", "largest", "runs"]]
        for (what, unit), values in self.values.items():
            summary = spread(values)
            assert summary is not None
            digits = 0 if unit in ("MiB", "requests") else 2
            shown = [f"{v:.{digits}f} {unit}" for v in (summary.median, summary.low, summary.high)]
            lines.append([what, *shown, str(summary.n)])
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        rendered = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
            for line in lines
        ]
        rendered.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        return "\n".join(rendered)


@dataclasses.dataclass(frozen=True)
class Home:
    """A running OpenMaaS with its own home."""

    server: Server
    context: LaunchContext
    key: str

    def predict(self, name: str, work: Workload, timeout_s: float = 5.0) -> bool:
        """Whether the answer is right; False for any error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.context.port, timeout=timeout_s)
        body = json.dumps({"x": models.as_json(work.rows[0])})
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        try:
            connection.request("POST", f"/predict/{name}", body, headers)
            response = connection.getresponse()
            if response.status != 200:
                return False
            # The name of the only output depends on the exporter.
            (value,) = json.loads(response.read()).values()
            return abs(float(value) - float(work.answers[0, 0])) < work.tolerance
        except (OSError, http.client.HTTPException, ValueError, TypeError):
            return False
        finally:
            connection.close()

    def answers(self, name: str) -> bool:
        """Whether the answer is one finite number."""
        client = openmaas.client(self.context)
        with contextlib.closing(client), contextlib.suppress(Exception):
            return math.isfinite(client.predict(name, x=[float(i) for i in range(10)])["y_pred"])
        return False

    def process(self, role: str) -> int:
        """Process id of the only process of a role, by its command line."""
        pids = [pid for pid in self.server.pids() if f"maas.processes.{role}" in _command_line(pid)]
        if len(pids) != 1:
            commands = "\n".join(_command_line(pid) for pid in self.server.pids())
            raise ServerFailed(f"expected one {role} process, got {len(pids)} in:\n{commands}")
        return pids[0]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@contextlib.contextmanager
def fresh_home(cache: Path, seconds: Callable[[float], None] | None = None) -> Iterator[Home]:
    """`maas up` with an empty home; `seconds` is called with the time until /readyz returns 200."""
    with tempfile.TemporaryDirectory(dir=cache, prefix="run-") as folder:
        context = LaunchContext(
            python=Path(sys.executable),
            port=free_port(),
            spare_port=0,
            options={},
            models=cache / "models",
            folder=Path(folder),
            log=cache / "logs" / "start-and-memory.log",
            core=None,
        )
        start = time.perf_counter()
        server = openmaas.up(context, wait=False)
        try:
            while status_of(context.port, "/readyz") != 200:
                if server.process.poll() is not None or time.perf_counter() - start > TIMEOUT_S:
                    raise ServerFailed(f"maas up did not become ready:\n{server.tail()}")
                time.sleep(0.005)
            if seconds:
                seconds(time.perf_counter() - start)
            yield Home(server, context, openmaas.admin_key(context))
        finally:
            server.stop()


def wait_for(event: str, condition: Callable[[], bool]) -> float:
    """Seconds until the condition is true. Raises ServerFailed after 30 seconds."""
    start = time.perf_counter()
    while not condition():
        if time.perf_counter() - start > TIMEOUT_S:
            raise ServerFailed(f"{event} did not happen within {TIMEOUT_S:g} s")
        time.sleep(0.005)
    return time.perf_counter() - start


def torch_module(work: Workload, cache: Path) -> Any:
    """The same network as an nn.Module after training.

    The optimizer has made steps of size zero, which keep the expected answers and load the same
    parts of torch as real training.
    """
    import torch

    weights = np.load(cache / "models" / "article.npz")
    first, last = torch.nn.Linear(10, 10), torch.nn.Linear(10, 1)
    net = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    with torch.no_grad():
        for layer, weight, bias in ((first, "w1", "b1"), (last, "w2", "b2")):
            layer.weight.copy_(torch.from_numpy(weights[weight]))
            layer.bias.copy_(torch.from_numpy(weights[bias]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    for _ in range(3):
        loss: Any = torch.nn.functional.mse_loss(
            net(torch.from_numpy(work.rows).reshape(-1, 10)),
            torch.from_numpy(work.answers).reshape(-1, 1),
        )
        loss.backward()
        optimizer.step()
    return net.eval()


def publishing_a_build(home: Home, runs: int, table: Table) -> None:
    """Time from `maas publish` of a finished build, as a separate command, to the first answer."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("MAAS_")},
        "MAAS_HOME": str(home.context.folder / "home"),
        "MAAS_SERVER__PORT": str(home.context.port),
    }

    def maas(*arguments: str) -> str:
        command = [*openmaas.maas_command(), *arguments, "-o", "json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerFailed(f"{' '.join(command)}: {done.stderr[-2000:]}")
        return done.stdout

    job = json.loads(maas("build", str(HERE.parent / "examples/article/recipe.toml")))["id"]
    for run in range(runs):
        name = f"build-{run}"
        start = time.perf_counter()
        maas("publish", "--job", job)
        maas("deploy", name, "--model", "article")
        wait_for(f"the first answer of {name}", partial(home.answers, name))
        table.add("maas build: publish to first answer", "s", time.perf_counter() - start)
        _delete(home, name)


def publishing(home: Home, work: Workload, cache: Path, runs: int, table: Table) -> None:
    """Time from the call of `client.publish` to the first right answer."""
    example = {"x": work.rows[0]}
    sources: dict[str, Any] = {"ONNX file": work.file}
    with contextlib.suppress(ImportError):
        sources["torch module"] = torch_module(work, cache)
    for source, model in sources.items():
        for run in range(runs):
            name = f"{source.split()[0].lower()}-{run}"
            start = time.perf_counter()
            openmaas.publish(home.context, name, model, example)
            published = time.perf_counter()
            wait_for(f"the first answer of {name}", partial(home.predict, name, work))
            end = time.perf_counter()
            # The first export in a process also imports the exporter.
            first = ", first in its process" if source == "torch module" and run == 0 else ""
            table.add(f"{source}: publish to first answer{first}", "s", end - start)
            table.add(f"{source}: of that, waiting after deploy{first}", "s", end - published)
            _delete(home, name)


def _delete(home: Home, name: str) -> None:
    """Deletes a deployment, so that its replicas do not disturb the next run."""
    connection = http.client.HTTPConnection("127.0.0.1", home.context.port, timeout=10)
    headers = {"authorization": f"Bearer {home.key}"}
    connection.request("DELETE", f"/api/v1/deployments/{name}", headers=headers)
    connection.getresponse().read()
    connection.close()


def memory(home: Home, work: Workload, table: Table) -> None:
    """Memory after a few thousand predictions, when buffers and arenas have their final sizes."""
    for _ in range(3000):
        if not home.predict("article", work):
            raise ServerFailed("a prediction failed before memory was read")
    for role in ROLES:
        usage = memory_of(home.process(role))
        table.add(f"{role}: RSS", "MiB", usage.rss / 2**20)
        table.add(f"{role}: PSS", "MiB", usage.pss / 2**20)
    usage = home.server.memory()
    table.add("all processes: PSS", "MiB", usage.pss / 2**20)


def killing(home: Home, work: Workload, runs: int, table: Table) -> None:
    """Longest time without a right answer after kill -9 of each role, and failed predictions."""
    for role in ROLES:
        for _ in range(runs):
            wait_for("recovery before the next kill", lambda: home.predict("article", work))
            time.sleep(1.0)
            pid = home.process(role)
            start = time.perf_counter()
            gap, failed = _kill(home, work, pid)
            table.add(f"kill -9 {role}: longest without an answer", "s", gap)
            table.add(f"kill -9 {role}: failed predictions", "requests", failed)
            if role == "control":
                # Checked after one second of predictions, so the minimum is 1 s.
                wait_for(f"{STATUS} after the kill", lambda: _answers(home, STATUS))
                back = time.perf_counter() - start
                table.add(f"kill -9 {role}: until {STATUS} answers (≥ 1 s)", "s", back)
            if home.process(role) == pid:
                raise ServerFailed(f"the killed {role} process is still running")


def _kill(home: Home, work: Workload, pid: int) -> tuple[float, int]:
    """(longest time without a right answer in seconds, number of failures).

    Sends sequential predictions for at least a second and until 20 consecutive ones are right. A
    prediction that waits for a new process does not fail, but its time counts.
    """
    os.kill(pid, signal.SIGKILL)
    killed = answered = time.perf_counter()
    longest, failed, right = 0.0, 0, 0
    while right < 20 or time.perf_counter() - killed < 1.0:
        if home.predict("article", work):
            now = time.perf_counter()
            longest, answered, right = max(longest, now - answered), now, right + 1
        else:
            right, failed = 0, failed + 1
            time.sleep(0.002)
        if time.perf_counter() - killed > TIMEOUT_S:
            raise ServerFailed(f"no recovery within {TIMEOUT_S:g} s after a kill")
    return longest, failed


def _answers(home: Home, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", home.context.port, timeout=5)
    try:
        connection.request("GET", path, headers={"authorization": f"Bearer {home.key}"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".bench")
    parser.add_argument("--output", type=Path, help="file to write the table to")
    options = parser.parse_args(argv)
    if reason := openmaas.available():
        print(f"{sys.executable} cannot import OpenMaaS: {reason}", file=sys.stderr)
        return 1
    cache = options.cache.resolve()
    work = models.article(cache / "models")
    table, failure = Table(), ""
    try:
        for _ in range(options.runs):
            with fresh_home(cache, lambda s: table.add("maas up to /readyz 200", "s", s)):
                pass
        with fresh_home(cache) as home:
            publishing(home, work, cache, options.runs, table)
            publishing_a_build(home, options.runs, table)
            openmaas.publish(home.context, "article", work.file, {"x": work.rows[0]})
            wait_for("the deployment", lambda: home.predict("article", work))
            memory(home, work, table)
            killing(home, work, options.runs, table)
    except ServerFailed as error:
        failure = f"\n\nStopped: {error}"
    here = machine.description()
    text = f"{here['processor']}, {here['cores']} cores, {here['kernel']}\n\n{table}{failure}\n"
    print(text)
    if options.output:
        options.output.write_text(f"# Start, recovery and memory\n\n{text}")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
