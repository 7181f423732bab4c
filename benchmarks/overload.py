"""Goodput and latency of refusals at ten times the capacity.

    make bench-overload            # or: .venv/bin/python -m benchmarks.overload --rounds 5

A model with a few milliseconds per row is deployed. Its peak goodput is measured in a closed loop
with 4 connections, then ten times that rate is offered in an open loop, whose latencies count from
the scheduled time of each request. Each round measures both, because the speed of the machine may
change. Prints the goodput ratio, the median and 99th percentile of the latency of refusals, and the
memory of gateway and replica before and after.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import psutil

from tests.support.clients.load import LoadTarget, Report, closed_loop, open_loop, run_load
from tests.support.models.onnx import slow_model
from tests.support.servers.maas import Stack, running

OFFERED = 10


def resident(stack: Stack) -> float:
    pids = (*stack.pids("gateway"), *stack.pids("replica"))
    return float(sum(psutil.Process(pid).memory_info().rss for pid in pids) / 2**20)


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def one_round(stack: Stack, seconds: float) -> dict[str, float]:
    target = LoadTarget(stack.port, "/predict/slow", stack.token)
    peak = run_load(closed_loop(target, 4, seconds)).outcomes["200"] / seconds
    before = resident(stack)
    overload: Report = run_load(open_loop(target, OFFERED * peak, seconds, connections=512))
    refused = overload.latencies.get("503", []) + overload.latencies.get("429", [])
    return {
        "peak_per_s": peak,
        "goodput_per_s": overload.outcomes["200"] / seconds,
        "goodput_ratio": overload.outcomes["200"] / seconds / peak,
        "refused": len(refused),
        "refusal_ms_p50": 1000 * quantile(refused, 0.5),
        "refusal_ms_p99": 1000 * quantile(refused, 0.99),
        "without_retry_after": overload.without_retry_after,
        "other_outcomes": overload.total - overload.outcomes["200"] - len(refused),
        "mib_before": before,
        "mib_after": resident(stack),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/overload.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="m") as home, running(Path(home)) as stack:
        client = stack.client()
        client.publish(slow_model(Path(home) / "slow.onnx"), name="slow", example=[1.0, 2.0])
        client.deploy("slow", model="slow", max_batch=1, queue_limit=32)
        rounds = [one_round(stack, options.seconds) for _ in range(options.rounds)]
    duration = f"{options.rounds} rounds of {options.seconds} s"
    print(f"{OFFERED} × the peak rate, {duration}: median (min–max)")
    for name in rounds[0]:
        values = [r[name] for r in rounds]
        print(
            f"  {name:<20} {statistics.median(values):10.2f}  ({min(values):.2f}–{max(values):.2f})"
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"rounds": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
