"""Tokens/s of the `transformers` engine, bare and through OpenMaaS, with random weights.

`python -m benchmarks.transformers_engine` makes a Llama with about 1 B parameters (`--size small`:
135 M, for a CPU) and generates text with it in several ways. Bare: transformers' own continuous
batching and greedy decoding in a process of its own; on a GPU once with its defaults and once with
CUDA graphs and overlapped steps, which are off by default for this attention. OpenMaaS: `maas up`
with the model pulled and deployed, streamed over `/v1/completions` with a key. Rounds are
interleaved, one side works at a time, all answers have equal length, and the token counts of the
server are checked. Runs on the CPU or, if PyTorch has CUDA, on the GPU; the table names the device.
Needs the extra `transformers`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from maas.client.http.retry import RetryPolicy
from maas.client.http.transport import Endpoint
from maas.client.load_test.connection import Address, LoadConnection, StreamTimings

SIZES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8},
    "small": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
              "num_attention_heads": 9, "num_key_value_heads": 3},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2},
}  # fmt: skip
WORDS, END = 32_000, 0
SLOTS, CONTEXT = 64, 2048
TIMEOUT_S = 600.0
GRAPHS = {
    "use_cuda_graph": True, "use_async_batching": True,
    "q_padding_interval_size": 16, "kv_padding_interval_size": 2048,
}  # fmt: skip
"""Settings of the bare engine; its default padding is for attention without a mask."""


def make_model(folder: Path, size: str) -> int:
    """Writes the model's files, and returns its number of parameters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS, max_position_embeddings=CONTEXT, tie_word_embeddings=size != "1b",
        bos_token_id=None, eos_token_id=END, **SIZES[size],
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<end>", *alphabet, *(f"Ġw{n}" for n in range(WORDS - 1 - len(alphabet)))]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return sum(p.numel() for p in model.parameters())


def prompt(number: int, length: int) -> list[int]:
    """Token ids of a different prompt for each number, so that no cached prefix can be reused."""
    return [1 + (number * 7919 + at * 104_729) % (WORDS - 1) for at in range(length)]


# -- bare ------------------------------------------------------------------------------------


def run_bare(options: argparse.Namespace) -> None:
    """Process of the bare engine: each input line `concurrency requests first` starts a run."""
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(options.threads)
    batch = options.batch or (2048 if device == "cuda" else 512)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        options.folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
    ).to(device)
    settings = ContinuousBatchingConfig(
        num_blocks=SLOTS * CONTEXT // 4 // 32, page_size=32, max_batch_tokens=batch,
        max_requests_per_batch=SLOTS + 1, allow_block_sharing=False, auto_switch_to_flash=False,
        **(GRAPHS if options.graphs else {}),
    )  # fmt: skip
    plain = GenerationConfig(do_sample=False, eos_token_id=-1)
    manager = model.init_continuous_batching(plain, settings)
    manager.start()

    def add_request(number: int) -> None:
        ids = prompt(number, options.prompt)
        manager.add_request(ids, str(number), max_new_tokens=options.tokens, eos_token_id=-1)

    device_name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{device_name}, {str(dtype).removeprefix('torch.')}", flush=True)
    for line in sys.stdin:
        concurrency, requests, first = map(int, line.split())
        start = time.perf_counter()
        for number in range(first, first + concurrency):
            add_request(number)
        for done in range(requests):
            result = manager.get_result(timeout=TIMEOUT_S)
            check(result and len(result.generated_tokens), options.tokens)
            if done + concurrency < requests:
                add_request(first + done + concurrency)
        print(requests * options.tokens / (time.perf_counter() - start), flush=True)
    manager.stop()


def check(tokens: object, expected: int) -> None:
    """Exits if an answer has another number of tokens than expected."""
    if tokens != expected:
        raise SystemExit(f"an answer must have {expected} tokens; got {tokens}")


class BareTransformers:
    """The bare engine in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = [sys.executable, "-m", "benchmarks.transformers_engine", "--bare", str(folder)]
        self._process = subprocess.Popen(
            [*command, *options, *sys.argv[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.device = self._line().strip()

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit("the process of the bare engine exited; its error is above")
        return line

    def run(self, concurrency: int, requests: int, first: int) -> float:
        if self._process.stdin is not None:
            self._process.stdin.write(f"{concurrency} {requests} {first}\n")
            self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


# -- OpenMaaS --------------------------------------------------------------------------------


@contextlib.contextmanager
def served(options: argparse.Namespace, folder: Path, home: Path) -> Iterator[Served]:
    """`maas up` with the model pulled and deployed."""
    from benchmarks.harness.processes import free_port

    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    environment |= {"MAAS_HOME": str(home), "MAAS_SERVER__PORT": str(port)}

    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "maas.cli.main", *words]

    log = (home.parent / "server.log").open("wb")
    server = subprocess.Popen(command("up"), env=environment, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until(lambda: httpx2.get(f"{url}/readyz").status_code == 200)
        steps = (("pull", str(folder), "--name", "random"), ("deploy", "random"))
        for words in steps:
            subprocess.run(command(*words), env=environment, check=True, stdout=log)
        key = (home / "admin.key").read_text().strip()
        yield Served(url, key, options)
    finally:
        server.terminate()
        server.wait()
        log.close()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.HTTPError):
            if condition():
                return
        time.sleep(0.1)
    raise SystemExit("the server is not ready")


class Served:
    """The model behind `maas up`."""

    def __init__(self, url: str, key: str, options: argparse.Namespace) -> None:
        self._address = Address.of(Endpoint(url, key, TIMEOUT_S, RetryPolicy(0)))
        self._options = options

    def run(self, concurrency: int, requests: int, first: int) -> float:
        return asyncio.run(self._run(concurrency, requests, first))

    async def _run(self, concurrency: int, requests: int, first: int) -> float:
        numbers = iter(range(first, first + requests))
        connections = [LoadConnection(self._address) for _ in range(concurrency)]
        for connection in connections:
            await connection.connect()

        async def send_requests(connection: LoadConnection) -> None:
            for number in numbers:
                await self._one(connection, number)

        start = time.perf_counter()
        await asyncio.gather(*map(send_requests, connections))
        seconds = time.perf_counter() - start
        for connection in connections:
            connection.close()
        return float(requests * self._options.tokens / seconds)

    async def _one(self, connection: LoadConnection, number: int) -> None:
        body = {
            "model": "random", "prompt": prompt(number, self._options.prompt), "temperature": 0,
            "max_tokens": self._options.tokens, "logit_bias": {str(END): -100}, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        timings = StreamTimings()
        await connection.send(
            self._address.post("/v1/completions", json.dumps(body).encode()), timings.feed
        )
        timings.check()
        check(timings.usage and timings.usage.completion_tokens, self._options.tokens)


# -- both ------------------------------------------------------------------------------------


def compare(options: argparse.Namespace, scratch: Path) -> str:
    folder = scratch / "model"
    parameters = make_model(folder, options.size)
    rates: dict[tuple[str, int], list[float]] = {}
    with served(options, folder, scratch / "home") as through, contextlib.ExitStack() as stack:
        alone = {"bare": BareTransformers(folder)}
        if alone["bare"].device.startswith("NVIDIA"):
            alone["bare, CUDA graphs"] = BareTransformers(folder, "--graphs")
        for side in alone.values():
            stack.callback(side.close)
        sides: dict[str, Any] = alone | {"OpenMaaS": through}
        first = 0
        for concurrency in options.concurrency:
            for side in sides.values():
                side.run(concurrency, 2 * concurrency, first)  # warms up pages and caches
            first += 2 * concurrency
        for round_number in range(options.rounds):
            for concurrency in options.concurrency:
                requests = max(2, options.per_caller * concurrency)
                first += requests
                for name in list(sides)[:: 1 if round_number % 2 else -1]:
                    rate = sides[name].run(concurrency, requests, first)
                    rates.setdefault((name, concurrency), []).append(rate)
                    print(f"{concurrency} concurrent, {name}: {rate:.1f}", file=sys.stderr)
    others = list(alone)
    heads = [f"{name}, tokens/s" for name in sides] + [f"OpenMaaS / {name}" for name in others]
    lines = [
        f"{parameters / 1e6:.0f} M random parameters on {alone['bare'].device}, {options.prompt} "
        f"prompt tokens and {options.tokens} generated tokens, medians of {options.rounds} "
        "interleaved rounds (smallest to largest)",
        "",
        f"| concurrent | {' | '.join(heads)} |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for concurrency in options.concurrency:
        cells = [_spread(rates[name, concurrency], 1) for name in sides]
        for name in others:
            pairs = zip(rates["OpenMaaS", concurrency], rates[name, concurrency], strict=True)
            cells.append(_spread([a / b for a, b in pairs], 2))
        lines.append(f"| {concurrency} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="1b")
    parser.add_argument("--threads", type=int, default=2, help="of the bare engine on a CPU")
    parser.add_argument("--batch", type=int, help="tokens per step of the bare engine "
                        "(default: 2048 on a GPU, as in a replica, else 512)")  # fmt: skip
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--per-caller", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--graphs", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--bare", dest="folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        run_bare(options)
        return 0
    with tempfile.TemporaryDirectory(prefix="b") as scratch:
        print(compare(options, Path(scratch)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
