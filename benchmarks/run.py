"""Requests per second of OpenMaaS and other model servers, each on one core.

`python benchmarks/run.py` installs every peer into `.bench/` (once), runs all rounds, prints the
tables and writes JSON, Markdown and charts. benchmarks/README.md explains the measurement.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.harness import environments, load, machine, measure, models, openmaas, report  # noqa: E402
from benchmarks.harness.measure import Entry, Plan, Sample  # noqa: E402
from benchmarks.harness.peers import PEERS, Peer  # noqa: E402


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    names = [openmaas.OPENMAAS.name, *(p.name for p in PEERS)]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all servers (default 5)")
    parser.add_argument(
        "--seconds", type=int, default=4, help="duration of a measurement (default 4)"
    )
    parser.add_argument("--warmup", type=int, default=2, help="seconds before each route")
    parser.add_argument("--only", default="", help=f"comma-separated names of {', '.join(names)}")
    parser.add_argument("--workloads", default="article,noop,image", help="comma-separated names")
    parser.add_argument("--connections", default="1,64", help="numbers for article and noop")
    parser.add_argument("--image-connections", default="1,8", help="numbers for image")
    parser.add_argument("--grid", action="store_true", help="measure all configurations")
    parser.add_argument("--server-core", type=int, default=1)
    parser.add_argument("--load-core", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=HERE.parent / ".bench")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args(argv)
    for name in filter(None, options.only.split(",")):
        if name not in names:
            parser.error(f"--only must name some of {', '.join(names)}; got {name!r}")
    if options.rounds < 1 or options.seconds < 1 or options.warmup < 0:
        parser.error("--rounds and --seconds must be at least 1, --warmup at least 0")
    if options.server_core == options.load_core:
        parser.error("--server-core and --load-core must differ")
    missing = {options.server_core, options.load_core} - os.sched_getaffinity(0)
    if missing:
        parser.error(f"this process cannot run on core {', '.join(map(str, sorted(missing)))}")
    return options


def entries(options: argparse.Namespace, failures: dict[str, str]) -> list[Entry]:
    """Participants with their published configurations or, for the grid, with all."""
    selected = [n for n in options.only.split(",") if n]
    peers: list[Peer] = [
        p for p in (openmaas.OPENMAAS, *PEERS) if not selected or p.name in selected
    ]
    if openmaas.OPENMAAS in peers and (reason := openmaas.available()):
        failures["OpenMaaS"] = f"{sys.executable} cannot import it: {reason}"
        print(f"OpenMaaS is skipped: {failures['OpenMaaS']}", file=sys.stderr)
        peers.remove(openmaas.OPENMAAS)
    pythons = measure.prepare(peers, options.cache, failures)
    participants = []
    for peer in peers:
        if peer.name in pythons:
            for config in peer.grid if options.grid else peer.best:
                participants.append(Entry(peer, config, pythons[peer.name]))
    return participants


def plan_of(options: argparse.Namespace) -> Plan:
    small = [int(c) for c in options.connections.split(",")]
    large = [int(c) for c in options.image_connections.split(",")]
    levels = {"article": small, "noop": small, "image": large}
    chosen = ["article"] if options.grid else options.workloads.split(",")
    return Plan(
        rounds=options.rounds,
        seconds=options.seconds,
        warmup=options.warmup,
        server_core=options.server_core,
        load_core=options.load_core,
        cache=options.cache.resolve(),
        connections={name: levels[name] for name in chosen},
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    try:
        load.require_wrk()
    except load.LoadFailed as error:
        print(error, file=sys.stderr)
        return 1
    failures: dict[str, str] = {}
    participants = entries(options, failures)
    if not participants:
        print("there is no server to measure", file=sys.stderr)
        return 1
    plan = plan_of(options)
    plan.cache.mkdir(parents=True, exist_ok=True)
    (plan.cache / ".gitignore").write_text("*\n")
    folder = plan.cache / "models"
    workloads = {"article": models.article(folder), "image": models.image(folder)}
    os.sched_setaffinity(0, {plan.load_core})

    started = time.time()
    calibration = [machine.calibration_ms(plan.server_core)]
    samples = _measured_samples(measure.run(plan, participants, workloads, failures))
    calibration.append(machine.calibration_ms(plan.server_core))

    titles = {e.peer.name: _title(e) for e in participants}
    rows = report.rows(samples, titles)
    notes = report.disturbances(samples) + [f"{k}: not measured. {v}" for k, v in failures.items()]
    text = report.markdown(rows) + "".join(f"\n\n{note}" for note in notes) + "\n"
    print(text)
    result: dict[str, Any] = {
        "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "command": "benchmarks/run.py " + " ".join(sys.argv[1:] if argv is None else argv),
        "machine": machine.description(),
        "calibration_ms": calibration,
        "plan": {"rounds": plan.rounds, "seconds": plan.seconds, "warmup": plan.warmup},
        "settings": {
            e.peer.name: {"published": list(e.peer.best), "grid": dict(e.peer.grid)}
            for e in participants
        },
        "versions": {e.peer.name: environments.versions(e.python) for e in participants},
        "notes": notes,
        "rows": [row.to_dict() for row in rows],
        "samples": [sample.to_dict() for sample in samples],
    }
    write(options, result, rows, text)
    return 1 if failures or any(s.void for s in samples) else 0


def _measured_samples(measurements: Iterator[Sample]) -> list[Sample]:
    """All samples, each printed when it is measured. Ctrl-C ends the measurement."""
    samples: list[Sample] = []
    try:
        for sample in measurements:
            samples.append(sample)
            note = f"  VOID: {sample.void}" if sample.void else ""
            print(
                f"  {sample.protocol} {sample.connections:>3}: {sample.rps:>9,.1f}/s{note}",
                file=sys.stderr,
                flush=True,
            )
    except KeyboardInterrupt:
        print("stopped; the tables have the rounds so far", file=sys.stderr)
    return samples


def write(
    options: argparse.Namespace, result: dict[str, Any], rows: list[report.Row], text: str
) -> None:
    """Writes results.json, results.md and a chart per workload, or grid.json and grid.md."""
    options.output.mkdir(parents=True, exist_ok=True)
    stem = "grid" if options.grid else "results"
    here = result["machine"]
    machine_line = f"{here['processor']}, {here['cores']} cores, {here['kernel']}"
    head = f"# {'Grid of settings' if options.grid else 'Benchmark'}\n\n"
    head += f"{result['made_at']}, {machine_line}. Command: `{result['command']}`.\n\n"
    (options.output / f"{stem}.json").write_text(json.dumps(_finite(result), indent=1) + "\n")
    (options.output / f"{stem}.md").write_text(head + text)
    if not options.grid:
        for workload in sorted({row.workload for row in rows}):
            drawing = report.picture(rows, workload, machine_line)
            (options.output / f"{workload}.svg").write_text(drawing)
    print(f"written to {options.output}", file=sys.stderr)


def _title(entry: Entry) -> str:
    version = environments.versions(entry.python).get(entry.peer.package, "")
    return f"{entry.peer.title} {version}".strip()


def _finite(value: Any) -> Any:
    """`value` with null for numbers that JSON cannot represent."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
