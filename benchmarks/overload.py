"""Ten times more than can be answered: how much is still answered, and how fast the rest is told.

    make bench-overload            # or: .venv/bin/python -m benchmarks.overload --rounds 5

A model of a few milliseconds per row is deployed; its peak goodput is measured in a closed loop
with 4 connections, then ten times that rate is offered in an open loop (latency counts from when
each request was due). Each round measures both, so that a machine whose speed drifts compares
with itself. Prints the goodput ratio, the median and 99th percentile of a refusal's latency, and
the memory of gateway and replica before and after.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import psutil

from tests.support.clients.load import Report, Target, closed_loop, open_loop, run_load
from tests.support.models.onnx import slow_model
from tests.support.servers.maas import Stack, running

OFFERED = 10


def resident(stack: Stack) -> float:
    pids = (*stack.pids("gateway"), *stack.pids("replica"))
    return sum(psutil.Process(pid).memory_info().rss for pid in pids) / 2**20


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def one_round(stack: Stack, seconds: float) -> dict[str, float]:
    target = Target(stack.port, "/predict/slow", stack.token)
    peak = run_load(closed_loop(target, 4, seconds)).outcomes["200"] / seconds
    before = resident(stack)
    over: Report = run_load(open_loop(target, OFFERED * peak, seconds, connections=512))
    refused = over.latencies.get("503", []) + over.latencies.get("429", [])
    return {
        "peak_per_s": peak,
        "goodput_per_s": over.outcomes["200"] / seconds,
        "goodput_ratio": over.outcomes["200"] / seconds / peak,
        "refused": len(refused),
        "refusal_ms_p50": 1000 * quantile(refused, 0.5),
        "refusal_ms_p99": 1000 * quantile(refused, 0.99),
        "without_retry_after": over.without_retry_after,
        "other_outcomes": over.total - over.outcomes["200"] - len(refused),
        "mib_before": before,
        "mib_after": resident(stack),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/overload.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="m") as home, running(Path(home)) as stack:
        client = stack.client()
        client.publish(slow_model(Path(home) / "slow.onnx"), name="slow", example=[1.0, 2.0])
        client.deploy("slow", model="slow", max_batch=1, queue_limit=32)
        rounds = [one_round(stack, given.seconds) for _ in range(given.rounds)]
    print(f"{OFFERED}× the peak rate, {given.rounds} rounds of {given.seconds} s: median (min–max)")
    for name in rounds[0]:
        values = [r[name] for r in rounds]
        print(
            f"  {name:<20} {statistics.median(values):10.2f}  ({min(values):.2f}–{max(values):.2f})"
        )
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps({"rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
