"""Cost of four HTTP servers for the gateway, without a model.

Each reads a small JSON body, looks up the authorization header and answers with a number that is
checked, so that only the cost of the server is compared. Rounds are interleaved, the server is on
one core and wrk on another, as in run.py: `python benchmarks/http_servers.py --rounds 5`
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.harness import environments, load, machine, measure, models, report  # noqa: E402
from benchmarks.harness.measure import Entry, Plan  # noqa: E402
from benchmarks.harness.peers import SERVERS, Endpoint, LaunchContext, Peer  # noqa: E402
from benchmarks.harness.request_formats import Plain  # noqa: E402

ENDPOINTS = [Endpoint("post", Plain(), "/predict/article"), Endpoint("noop", None, "/livez")]
BARE = "bare"


def _granian(context: LaunchContext) -> Sequence[Any]:
    argv = [context.bin / "granian", "--interface", "rsgi", "--http", "1", "--no-ws", "--no-log"]
    argv += ["--loop", "uvloop", "--task-impl", context.options["task"], "--workers", 1]
    return [*argv, "--host", "127.0.0.1", "--port", context.port, "http_server_app:rsgi"]


def _uvicorn(context: LaunchContext) -> Sequence[Any]:
    argv = [context.python, "-m", "uvicorn", "http_server_app:asgi", "--port", context.port]
    argv += ["--loop", "uvloop", "--http", "httptools", "--interface", "asgi3", "--lifespan", "off"]
    return [*argv, "--no-access-log", "--log-level", "warning"]


def _bare(context: LaunchContext) -> Sequence[Any]:
    return [context.python, SERVERS / "http_server_app.py", context.port]


def _candidate(name: str, title: str, package: str, command: Any, grid: Any) -> Peer:
    return Peer(
        name=name,
        title=title,
        package=package,
        requirements=["granian", "uvicorn", "uvloop", "httptools", "msgspec"],
        command=command,
        grid=grid,
        best=list(grid),
        endpoints=ENDPOINTS,
        ready="/livez",
        environment="http-servers",
    )


CANDIDATES = (
    _candidate(BARE, "asyncio protocol, httptools", "httptools", _bare, {"uvloop, httptools": {}}),
    _candidate(
        "granian",
        "Granian RSGI",
        "granian",
        _granian,
        {"uvloop, asyncio tasks": {"task": "asyncio"}, "uvloop, Rust tasks": {"task": "rust"}},
    ),
    _candidate("uvicorn", "raw ASGI on uvicorn", "uvicorn", _uvicorn, {"uvloop, httptools": {}}),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--server-core", type=int, default=1)
    parser.add_argument("--load-core", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".bench")
    parser.add_argument("--output", type=Path, help="file to write the tables to")
    options = parser.parse_args(argv)
    try:
        load.require_wrk()
    except load.LoadFailed as error:
        print(error, file=sys.stderr)
        return 1
    plan = Plan(
        rounds=options.rounds,
        seconds=options.seconds,
        warmup=1,
        server_core=options.server_core,
        load_core=options.load_core,
        cache=options.cache.resolve(),
        connections={"post": [1, 64], "noop": [64]},
    )
    failures: dict[str, str] = {}
    pythons = measure.prepare(CANDIDATES, plan.cache, failures)
    participants = [
        Entry(c, config, pythons[c.name])
        for c in CANDIDATES
        if c.name in pythons
        for config in c.grid
    ]
    article = models.article(plan.cache / "models")
    sums = article.rows.sum(axis=1, keepdims=True)
    workloads = {"post": dataclasses.replace(article, name="post", answers=sums, tolerance=1e-3)}
    os.sched_setaffinity(0, {plan.load_core})
    samples = list(measure.run(plan, participants, workloads, failures))
    titles = {
        e.peer.name: f"{e.peer.title} {environments.versions(e.python).get(e.peer.package, '')}"
        for e in participants
    }
    rows = report.rows(samples, titles, baseline=BARE)
    here = machine.description()
    head = f"{here['processor']}, {here['cores']} cores, Python {here['python']}\n\n"
    notes = "".join(f"\n\n{note}" for note in report.disturbances(samples))
    text = head + report.markdown(rows, baseline="the bare protocol") + notes + "\n"
    print(text)
    if options.output:
        options.output.write_text(f"# Front endpoints\n\n{text}")
    return 1 if failures or any(s.void for s in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
