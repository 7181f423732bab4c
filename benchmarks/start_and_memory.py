"""How fast OpenMaaS starts, publishes and recovers, and how much memory its processes hold.

`python benchmarks/start_and_memory.py --runs 5` starts `maas up` in fresh homes and prints one
table. Nothing is pinned: this is what somebody at this machine would see.
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
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402

from harness import machine, models, openmaas  # noqa: E402
from harness.models import Workload  # noqa: E402
from harness.peers import Site  # noqa: E402
from harness.processes import Server, ServerFailed, free_port, memory_of, status_of  # noqa: E402
from harness.stats import spread  # noqa: E402

ROLES = ("gateway", "control", "replica")
PATIENCE_S = 30.0
STATUS = "/api/v1/status"


class Table:
    """What was measured, in the order in which it was first measured."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], list[float]] = {}

    def add(self, what: str, unit: str, value: float) -> None:
        self.values.setdefault((what, unit), []).append(value)

    def __str__(self) -> str:
        lines = [("what", "median", "smallest", "largest", "runs")]
        for (what, unit), values in self.values.items():
            seen = spread(values)
            assert seen is not None
            digits = 0 if unit in ("MiB", "requests") else 2
            shown = [f"{v:.{digits}f} {unit}" for v in (seen.median, seen.low, seen.high)]
            lines.append((what, *shown, str(seen.n)))
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        rendered = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
            for line in lines
        ]
        rendered.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
        return "\n".join(rendered)


@dataclasses.dataclass(frozen=True)
class Home:
    """A running OpenMaaS in a home of its own."""

    server: Server
    site: Site
    key: str

    def predict(self, name: str, work: Workload, timeout_s: float = 5.0) -> bool:
        """True for the right answer; False for anything else."""
        connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=timeout_s)
        body = json.dumps({"x": models.as_json(work.rows[0])})
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        try:
            connection.request("POST", f"/predict/{name}", body, headers)
            answer = connection.getresponse()
            if answer.status != 200:
                return False
            # An exported module names its output itself; there is only one.
            (got,) = json.loads(answer.read()).values()
            return abs(got - float(work.answers[0, 0])) < work.tolerance
        except (OSError, http.client.HTTPException, ValueError, TypeError):
            return False
        finally:
            connection.close()

    def answers(self, name: str) -> bool:
        """True for a 200 with one finite number."""
        client = openmaas.client(self.site)
        with contextlib.closing(client), contextlib.suppress(Exception):
            return math.isfinite(client.predict(name, x=[float(i) for i in range(10)])["y_pred"])
        return False

    def process(self, role: str) -> int:
        """The one process of a role, found by its command line."""
        found = [
            pid for pid in self.server.pids() if f"maas.processes.{role}" in _command_line(pid)
        ]
        if len(found) != 1:
            seen = "\n".join(_command_line(pid) for pid in self.server.pids())
            raise ServerFailed(f"expected one {role} process, found {len(found)} in:\n{seen}")
        return found[0]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


@contextlib.contextmanager
def fresh_home(cache: Path, seconds: Callable[[float], None] | None = None) -> Iterator[Home]:
    """`maas up` in an empty home; `seconds` gets the time until /readyz said 200."""
    with tempfile.TemporaryDirectory(dir=cache, prefix="run-") as folder:
        site = Site(
            python=Path(sys.executable),
            port=free_port(),
            spare_port=0,
            options={},
            models=cache / "models",
            folder=Path(folder),
            log=cache / "logs" / "start-and-memory.log",
            core=None,
        )
        began = time.perf_counter()
        server = openmaas.up(site, wait=False)
        try:
            while status_of(site.port, "/readyz") != 200:
                if server.process.poll() is not None or time.perf_counter() - began > PATIENCE_S:
                    raise ServerFailed(f"maas up did not become ready:\n{server.tail()}")
                time.sleep(0.005)
            if seconds:
                seconds(time.perf_counter() - began)
            yield Home(server, site, openmaas.admin_key(site))
        finally:
            server.stop()


def wait_for(what: str, holds: Callable[[], bool]) -> float:
    """Seconds until `holds`; raises ServerFailed after half a minute."""
    began = time.perf_counter()
    while not holds():
        if time.perf_counter() - began > PATIENCE_S:
            raise ServerFailed(f"{what} did not happen within {PATIENCE_S:g} s")
        time.sleep(0.005)
    return time.perf_counter() - began


def torch_module(work: Workload, cache: Path) -> Any:
    """The same net as an nn.Module, as somebody holds it after training: the optimizer has made
    its steps (of size zero, so that the answers are known), and torch is loaded as that loads it.
    """
    import torch

    weights = np.load(cache / "models" / "article.npz")
    net = torch.nn.Sequential(torch.nn.Linear(10, 10), torch.nn.ReLU(), torch.nn.Linear(10, 1))
    with torch.no_grad():
        for layer, weight, bias in ((net[0], "w1", "b1"), (net[2], "w2", "b2")):
            layer.weight.copy_(torch.from_numpy(weights[weight]))
            layer.bias.copy_(torch.from_numpy(weights[bias]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    for _ in range(3):
        torch.nn.functional.mse_loss(
            net(torch.from_numpy(work.rows).reshape(-1, 10)),
            torch.from_numpy(work.answers).reshape(-1, 1),
        ).backward()
        optimizer.step()
    return net.eval()


def publishing_a_build(home: Home, runs: int, table: Table) -> None:
    """The article recipe's own net: from `maas publish` of the finished build, a command of its
    own, to the first answer."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("MAAS_")},
        "MAAS_HOME": str(home.site.folder / "home"),
        "MAAS_SERVER__PORT": str(home.site.port),
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
        began = time.perf_counter()
        maas("publish", "--job", job)
        maas("deploy", name, "--model", "article")
        wait_for(f"the first answer of {name}", lambda n=name: home.answers(n))
        table.add("maas build: publish to first answer", "s", time.perf_counter() - began)
        _delete(home, name)


def publishing(home: Home, work: Workload, cache: Path, runs: int, table: Table) -> None:
    """From the call of `client.publish` to the first right answer."""
    example = {"x": work.rows[0]}
    kinds: dict[str, Any] = {"ONNX file": work.file}
    with contextlib.suppress(ImportError):
        kinds["torch module"] = torch_module(work, cache)
    for kind, model in kinds.items():
        for run in range(runs):
            name = f"{kind.split()[0].lower()}-{run}"
            began = time.perf_counter()
            openmaas.publish(home.site, name, model, example)
            published = time.perf_counter()
            wait_for(f"the first answer of {name}", lambda n=name: home.predict(n, work))
            ended = time.perf_counter()
            # The first export of a process also imports the exporter.
            first = ", first in its process" if kind == "torch module" and run == 0 else ""
            table.add(f"{kind}: publish to first answer{first}", "s", ended - began)
            table.add(f"{kind}: of that, waiting after deploy{first}", "s", ended - published)
            _delete(home, name)


def _delete(home: Home, name: str) -> None:
    """So that the next run is not measured beside the replicas of the last."""
    connection = http.client.HTTPConnection("127.0.0.1", home.site.port, timeout=10)
    headers = {"authorization": f"Bearer {home.key}"}
    connection.request("DELETE", f"/api/v1/deployments/{name}", headers=headers)
    connection.getresponse().read()
    connection.close()


def memory(home: Home, work: Workload, table: Table) -> None:
    """After a few thousand predictions, so that buffers and arenas have their size."""
    for _ in range(3000):
        if not home.predict("article", work):
            raise ServerFailed("a prediction failed before memory was read")
    for role in ROLES:
        held = memory_of(home.process(role))
        table.add(f"{role}: RSS", "MiB", held.rss / 2**20)
        table.add(f"{role}: PSS", "MiB", held.pss / 2**20)
    held = home.server.memory()
    table.add("all processes: PSS", "MiB", held.pss / 2**20)


def killing(home: Home, work: Workload, runs: int, table: Table) -> None:
    """kill -9 of each role: the longest time without a right answer, and failures on the way."""
    for role in ROLES:
        for _ in range(runs):
            wait_for("rest before the next kill", lambda: home.predict("article", work))
            time.sleep(1.0)
            pid = home.process(role)
            began = time.perf_counter()
            gap, failed = _kill(home, work, pid)
            table.add(f"kill -9 {role}: longest without an answer", "s", gap)
            table.add(f"kill -9 {role}: failed predictions", "requests", failed)
            if role == "control":
                # Looked at after the second of predictions, so never less than that.
                wait_for(f"{STATUS} after the kill", lambda: _answers(home, STATUS))
                back = time.perf_counter() - began
                table.add(f"kill -9 {role}: until {STATUS} answers (≥ 1 s)", "s", back)
            if home.process(role) == pid:
                raise ServerFailed(f"the {role} that was killed still runs")


def _kill(home: Home, work: Workload, pid: int) -> tuple[float, int]:
    """(longest time without a right answer in seconds, failures), calling one after the other for
    at least a second and until 20 in a row are right. A call that waits for a new process and is
    answered then is no failure, but its time counts."""
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
        if time.perf_counter() - killed > PATIENCE_S:
            raise ServerFailed(f"not serving again {PATIENCE_S:g} s after a kill")
    return longest, failed


def _answers(home: Home, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", home.site.port, timeout=5)
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
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    given = parser.parse_args(argv)
    if reason := openmaas.available():
        print(f"{sys.executable} cannot import OpenMaaS: {reason}", file=sys.stderr)
        return 1
    cache = given.cache.resolve()
    work = models.article(cache / "models")
    table, failure = Table(), ""
    try:
        for _ in range(given.runs):
            with fresh_home(cache, lambda s: table.add("maas up to /readyz 200", "s", s)):
                pass
        with fresh_home(cache) as home:
            publishing(home, work, cache, given.runs, table)
            publishing_a_build(home, given.runs, table)
            openmaas.publish(home.site, "article", work.file, {"x": work.rows[0]})
            wait_for("the deployment", lambda: home.predict("article", work))
            memory(home, work, table)
            killing(home, work, given.runs, table)
    except ServerFailed as failed:
        failure = f"\n\nStopped: {failed}"
    told = machine.description()
    text = f"{told['processor']}, {told['cores']} cores, {told['kernel']}\n\n{table}{failure}\n"
    print(text)
    if given.output:
        given.output.write_text(f"# Start, recovery and memory\n\n{text}")
    return 1 if failure else 0


if __name__ == "__main__":
    sys.exit(main())
