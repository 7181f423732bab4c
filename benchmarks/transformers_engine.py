"""The engine `transformers`: tokens/s through OpenMaaS and bare, with a randomly initialized model.

`python -m benchmarks.transformers_engine` makes a Llama of about 1 B parameters (`--size small`:
135 M, for a CPU), and asks for it in two ways. Bare: transformers' own continuous batching in a
process of its own, with its own loop and its choice of the likeliest token. OpenMaaS: `maas up`,
pulled and deployed as anybody would, streamed over `/v1/completions` with a key. Rounds are
interleaved, only one of the two works at a time, all answers are equally long, and the counts of
the server are checked. Runs on the CPU or, where PyTorch has CUDA, on the GPU; the table names the
device. Needs the extra `transformers`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

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
PATIENCE_S = 600.0


def make_model(folder: Path, size: str) -> int:
    """Writes the model's files; its parameters."""
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
    """Another for each, so that nobody profits from work done before."""
    return [1 + (number * 7919 + at * 104_729) % (WORDS - 1) for at in range(length)]


# -- bare ------------------------------------------------------------------------------------


def bare(given: argparse.Namespace) -> None:
    """A process that runs what it reads: `concurrency requests first`, a line each."""
    import torch
    from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(given.threads)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(
        given.folder, dtype=dtype, attn_implementation="sdpa", local_files_only=True
    ).to(device)
    settings = ContinuousBatchingConfig(
        num_blocks=SLOTS * CONTEXT // 4 // 32, page_size=32, max_batch_tokens=given.batch,
        max_requests_per_batch=SLOTS + 1, allow_block_sharing=False, auto_switch_to_flash=False,
    )  # fmt: skip
    plain = GenerationConfig(do_sample=False, eos_token_id=-1)
    manager = model.init_continuous_batching(plain, settings)
    manager.start()

    def ask(number: int) -> None:
        ids = prompt(number, given.prompt)
        manager.add_request(ids, str(number), max_new_tokens=given.tokens, eos_token_id=-1)

    named = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{named}, {str(dtype).removeprefix('torch.')}", flush=True)
    for line in sys.stdin:
        concurrency, requests, first = map(int, line.split())
        began = time.perf_counter()
        for number in range(first, first + concurrency):
            ask(number)
        for done in range(requests):
            result = manager.get_result(timeout=PATIENCE_S)
            check(result and len(result.generated_tokens), given.tokens)
            if done + concurrency < requests:
                ask(first + done + concurrency)
        print(requests * given.tokens / (time.perf_counter() - began), flush=True)
    manager.stop()


def check(used: object, wanted: int) -> None:
    if used != wanted:
        raise SystemExit(f"an answer had {used} tokens instead of {wanted}")


class Bare:
    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.transformers_engine", "--bare", str(folder)]
        self._process = subprocess.Popen(
            [*command, *sys.argv[1:]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.device = self._line().strip()

    def _line(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise SystemExit("the bare engine ended; see above")
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
def served(given: argparse.Namespace, folder: Path, home: Path) -> Iterator[Served]:
    """`maas up` with the model pulled and deployed."""
    from benchmarks.harness.processes import free_port

    port = free_port()
    told = {k: v for k, v in os.environ.items() if not k.startswith("MAAS_")}
    told |= {"MAAS_HOME": str(home), "MAAS_SERVER__PORT": str(port)}

    def maas(*words: str) -> list[str]:
        return [sys.executable, "-m", "maas.cli.main", *words]

    log = (home.parent / "server.log").open("wb")
    server = subprocess.Popen(maas("up"), env=told, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        _until(lambda: httpx2.get(f"{url}/readyz").status_code == 200)
        steps = (("pull", str(folder), "--name", "random"), ("deploy", "random"))
        for words in steps:
            subprocess.run(maas(*words), env=told, check=True, stdout=log)
        key = (home / "admin.key").read_text().strip()
        yield Served(url, key, given)
    finally:
        server.terminate()
        server.wait()
        log.close()


def _until(holds: Any) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx2.HTTPError):
            if holds():
                return
        time.sleep(0.1)
    raise SystemExit("the server is not ready")


class Served:
    def __init__(self, url: str, key: str, given: argparse.Namespace) -> None:
        limits = httpx2.Limits(max_connections=SLOTS)
        headers = {"authorization": f"Bearer {key}"}
        self._client = httpx2.Client(
            base_url=url, headers=headers, timeout=PATIENCE_S, limits=limits
        )
        self._given = given

    def run(self, concurrency: int, requests: int, first: int) -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(concurrency) as pool:
            list(pool.map(self._one, range(first, first + requests)))
        return requests * self._given.tokens / (time.perf_counter() - began)

    def _one(self, number: int) -> None:
        body = {
            "model": "random", "prompt": prompt(number, self._given.prompt), "temperature": 0,
            "max_tokens": self._given.tokens, "logit_bias": {str(END): -100}, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        used = 0
        with self._client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                raise SystemExit(answer.read().decode())
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    used = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", used)
        check(used, self._given.tokens)

    def close(self) -> None:
        self._client.close()


# -- both ------------------------------------------------------------------------------------


def compare(given: argparse.Namespace, scratch: Path) -> str:
    folder = scratch / "model"
    parameters = make_model(folder, given.size)
    rates: dict[tuple[str, int], list[float]] = {}
    with served(given, folder, scratch / "home") as through:
        alone = Bare(given, folder)
        sides = {"bare": alone, "OpenMaaS": through}
        first = 0
        try:
            for side in sides.values():
                side.run(2, 2, first)  # a first answer finds pages and caches cold
            for turn in range(given.rounds):
                for concurrency in given.concurrency:
                    requests = max(2, given.per_caller * concurrency)
                    first += requests
                    for name in list(sides)[:: 1 if turn % 2 else -1]:
                        rate = sides[name].run(concurrency, requests, first)
                        rates.setdefault((name, concurrency), []).append(rate)
                        print(f"{concurrency} at once, {name}: {rate:.1f}", file=sys.stderr)
        finally:
            alone.close()
            through.close()
    lines = [
        f"{parameters / 1e6:.0f} M random parameters on {alone.device}, {given.prompt} tokens read "
        f"and {given.tokens} written, medians of {given.rounds} interleaved rounds (smallest to "
        "largest)",
        "",
        "| at once | bare, tokens/s | OpenMaaS, tokens/s | ratio |",
        "|---|---|---|---|",
    ]
    for concurrency in given.concurrency:
        ours, theirs = rates["OpenMaaS", concurrency], rates["bare", concurrency]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        cells = [_spread(theirs, 1), _spread(ours, 1), _spread(ratios, 2)]
        lines.append(f"| {concurrency} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="1b")
    parser.add_argument("--threads", type=int, default=2, help="of the bare engine, on a CPU")
    parser.add_argument("--batch", type=int, default=512, help="tokens in a step, of the bare one")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--concurrency", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--per-caller", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bare", dest="folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder is not None:
        bare(given)
        return 0
    with tempfile.TemporaryDirectory(prefix="b") as scratch:
        print(compare(given, Path(scratch)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
