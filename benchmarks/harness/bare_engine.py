"""A process that runs a text generation engine without OpenMaaS around it.

`python -m benchmarks.harness.bare_engine ENGINE MODEL THREADS SLOTS` loads the file with the
settings of a replica. Each input line `concurrency requests first tokens` starts a run, and its
result is a line of JSON: the total duration, and the time to the first text of each request. There
is no queue, no frames and no assembly of text; every token is read once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.harness.generation_load import END_TOKENS, checked_count, messages
from maas.domain.signature import Signature, TensorSpec
from maas.runtimes.base import LoadRequest

SIGNATURE = Signature(
    (TensorSpec("prompt", "BYTES"),), (TensorSpec("text", "BYTES"),), example={"prompt": "Hello"}
)
Runner = Callable[[int, range, int], list[float]]
"""Function of concurrency, prompt numbers and tokens per answer; seconds to each first text."""


def llama_cpp(request: LoadRequest) -> Runner:
    import msgspec

    from maas.runtimes.llama_cpp.engine import LlamaCpp

    model = LlamaCpp()
    model.load(request)
    server = model._server

    def one(number: int, tokens: int) -> float:
        body = {
            "messages": messages(number), "n_predict": tokens, "temperature": 0,
            "cache_prompt": False, "stream": True, "stream_options": {"include_usage": True},
            "logit_bias": [[token, -100.0] for token in END_TOKENS["llama_cpp"]],
        }  # fmt: skip
        start, first, count = time.perf_counter(), 0.0, 0

        def read_chunk(data: bytes) -> bool:
            nonlocal first, count
            chunk = msgspec.json.decode(data)
            if not first and any(c.get("delta", {}).get("content") for c in chunk["choices"]):
                first = time.perf_counter()
            count = (chunk.get("usage") or {}).get("completion_tokens", count)
            return False

        server.handle_chat_completions(msgspec.json.encode(body), read_chunk)
        checked_count(count, tokens)
        return first - start

    def run(concurrency: int, numbers: range, tokens: int) -> list[float]:
        with ThreadPoolExecutor(concurrency) as pool:
            return list(pool.map(lambda number: one(number, tokens), numbers))

    return run


def openvino(request: LoadRequest) -> Runner:
    import openvino_genai

    from maas.runtimes.openvino.engine import OpenVino

    model = OpenVino()
    model.load(request)
    pipeline: Any = model._pipeline
    tokenizer = pipeline.get_tokenizer()

    def add_request(number: int, tokens: int) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        text = tokenizer.apply_chat_template(messages(number), add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False).input_ids
        return pipeline.add_request(number, ids, config)

    def run(concurrency: int, numbers: range, tokens: int) -> list[float]:
        waiting, waits = list(numbers)[::-1], []
        running: dict[int, tuple[Any, float, list[int]]] = {}
        while waiting or running:
            while waiting and len(running) < concurrency:
                start = time.perf_counter()
                number = waiting.pop()
                running[number] = (add_request(number, tokens), start, [])
            pipeline.step()
            for number, (handle, start, ids) in list(running.items()):
                while handle.can_read():
                    for output in handle.read().values():
                        if not ids:
                            waits.append(time.perf_counter() - start)
                        ids += output.generated_ids
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                    tokenizer.decode(ids)
                    checked_count(len(ids), tokens)
                    del running[number]
        return waits

    return run


def main() -> None:
    engine, path, threads, slots = sys.argv[1:]
    model = Path(path)
    request = LoadRequest({}, SIGNATURE, int(threads), {}, {model.name: model}, int(slots))
    run = {"llama_cpp": llama_cpp, "openvino": openvino}[engine](request)
    print("ready", flush=True)
    for line in sys.stdin:
        concurrency, requests, first, tokens = map(int, line.split())
        start = time.perf_counter()
        waits = run(concurrency, range(first, first + requests), tokens)
        print(json.dumps([time.perf_counter() - start, waits]), flush=True)


if __name__ == "__main__":
    main()
