"""Side by side: OpenMaaS and other ways to serve a model, on one core each in turn.

`python benchmarks/run.py` installs every peer into `.bench/` (once), runs all rounds, prints the
tables and writes JSON, Markdown and pictures. See benchmarks/README.md for what is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from harness import environments, load, machine, measure, models, openmaas, report  # noqa: E402
from harness.measure import Entry, Plan, Sample  # noqa: E402
from harness.peers import PEERS, Peer  # noqa: E402


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    names = [openmaas.OPENMAAS.name, *(p.name for p in PEERS)]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all (default 5)")
    parser.add_argument("--seconds", type=int, default=4, help="per measurement (default 4)")
    parser.add_argument("--warmup", type=int, default=2, help="seconds before each door")
    parser.add_argument("--only", default="", help=f"comma separated, of {', '.join(names)}")
    parser.add_argument("--workloads", default="article,noop,image", help="comma separated")
    parser.add_argument("--connections", default="1,64", help="for article and noop")
    parser.add_argument("--image-connections", default="1,8", help="for image")
    parser.add_argument("--grid", action="store_true", help="all configurations, to find the best")
    parser.add_argument("--server-core", type=int, default=1)
    parser.add_argument("--load-core", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".bench")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    given = parser.parse_args(argv)
    for name in filter(None, given.only.split(",")):
        if name not in names:
            parser.error(f"--only: nobody is called {name!r}; there are {', '.join(names)}")
    if given.rounds < 1 or given.seconds < 1 or given.warmup < 0:
        parser.error("--rounds and --seconds are 1 or more, --warmup is 0 or more")
    if given.server_core == given.load_core:
        parser.error("--server-core and --load-core must differ")
    missing = {given.server_core, given.load_core} - os.sched_getaffinity(0)
    if missing:
        parser.error(f"this process may not run on core {', '.join(map(str, sorted(missing)))}")
    return given


def entries(given: argparse.Namespace, failures: dict[str, str]) -> list[Entry]:
    """Who takes part, each with its best configuration or, for the grid, with all."""
    wanted = [n for n in given.only.split(",") if n]
    peers: list[Peer] = [p for p in (openmaas.OPENMAAS, *PEERS) if not wanted or p.name in wanted]
    if openmaas.OPENMAAS in peers and (reason := openmaas.available()):
        failures["OpenMaaS"] = f"{sys.executable} cannot import it: {reason}"
        print(f"OpenMaaS is left out: {failures['OpenMaaS']}", file=sys.stderr)
        peers.remove(openmaas.OPENMAAS)
    pythons = measure.prepare(peers, given.cache, failures)
    return [
        Entry(peer, config, pythons[peer.name])
        for peer in peers
        if peer.name in pythons
        for config in (peer.grid if given.grid else peer.best)
    ]


def plan_of(given: argparse.Namespace) -> Plan:
    small = [int(c) for c in given.connections.split(",")]
    large = [int(c) for c in given.image_connections.split(",")]
    levels = {"article": small, "noop": small, "image": large}
    chosen = ["article"] if given.grid else given.workloads.split(",")
    return Plan(
        rounds=given.rounds,
        seconds=given.seconds,
        warmup=given.warmup,
        server_core=given.server_core,
        load_core=given.load_core,
        cache=given.cache.resolve(),
        connections={name: levels[name] for name in chosen},
    )


def main(argv: Sequence[str] | None = None) -> int:
    given = parse(argv)
    try:
        load.require_wrk()
    except load.LoadFailed as missing:
        print(missing, file=sys.stderr)
        return 1
    failures: dict[str, str] = {}
    taking_part = entries(given, failures)
    if not taking_part:
        print("nobody is left to measure", file=sys.stderr)
        return 1
    plan = plan_of(given)
    plan.cache.mkdir(parents=True, exist_ok=True)
    (plan.cache / ".gitignore").write_text("*\n")
    folder = plan.cache / "models"
    makers = {"article": models.article, "image": models.image}
    works = {name: make(folder) for name, make in makers.items()}
    os.sched_setaffinity(0, {plan.load_core})

    started = time.time()
    calibration = [machine.calibration_ms(plan.server_core)]
    samples: list[Sample] = []
    try:
        for sample in measure.run(plan, taking_part, works, failures):
            samples.append(sample)
            note = f"  VOID: {sample.void}" if sample.void else ""
            print(
                f"  {sample.door} {sample.connections:>3}: {sample.rps:>9,.1f}/s{note}",
                file=sys.stderr,
                flush=True,
            )
    except KeyboardInterrupt:
        print("stopped; this is what there is so far", file=sys.stderr)
    calibration.append(machine.calibration_ms(plan.server_core))

    titles = {e.peer.name: _title(e) for e in taking_part}
    found = report.rows(samples, titles)
    notes = report.disturbances(samples) + [f"{k}: not measured. {v}" for k, v in failures.items()]
    text = report.markdown(found) + "".join(f"\n\n{note}" for note in notes) + "\n"
    print(text)
    result: dict[str, Any] = {
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "command": "benchmarks/run.py " + " ".join(sys.argv[1:] if argv is None else argv),
        "machine": machine.description(),
        "calibration_ms": calibration,
        "plan": {"rounds": plan.rounds, "seconds": plan.seconds, "warmup": plan.warmup},
        "settings": {
            e.peer.name: {"published": list(e.peer.best), "grid": dict(e.peer.grid)}
            for e in taking_part
        },
        "versions": {e.peer.name: environments.versions(e.python) for e in taking_part},
        "notes": notes,
        "rows": [row.to_dict() for row in found],
        "samples": [sample.to_dict() for sample in samples],
    }
    write(given, result, found, text)
    return 1 if failures or any(s.void for s in samples) else 0


def write(
    given: argparse.Namespace, result: dict[str, Any], found: list[report.Row], text: str
) -> None:
    """results.json, results.md and one picture per workload; for the grid grid.json, grid.md."""
    given.output.mkdir(parents=True, exist_ok=True)
    stem = "grid" if given.grid else "results"
    told = result["machine"]
    machine_line = f"{told['processor']}, {told['cores']} cores, {told['kernel']}"
    head = f"# {'Grid of settings' if given.grid else 'Benchmark'}\n\n"
    head += f"{result['made_at']}, {machine_line}. Command: `{result['command']}`.\n\n"
    (given.output / f"{stem}.json").write_text(json.dumps(_finite(result), indent=1) + "\n")
    (given.output / f"{stem}.md").write_text(head + text)
    if not given.grid:
        for workload in sorted({row.workload for row in found}):
            drawing = report.picture(found, workload, machine_line)
            (given.output / f"{workload}.svg").write_text(drawing)
    print(f"written to {given.output}", file=sys.stderr)


def _title(entry: Entry) -> str:
    version = environments.versions(entry.python).get(entry.peer.package, "")
    return f"{entry.peer.title} {version}".strip()


def _finite(value: Any) -> Any:
    """JSON has no NaN: what was not measured is null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
