"""A process with an engine that writes text, called as its own documentation does.

`python -m harness.bare_engine ENGINE MODEL THREADS SLOTS` loads the file with the very settings of
a replica and then runs what it reads, a line each: `concurrency requests first tokens`. It answers
with a line of JSON: how long all took, and how long each waited for its first text. No platform:
no queue, no frames, no text pieced together; a token is looked at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from harness.generation_load import ENDS, checked_count, messages
from maas.domain.signature import Signature, TensorSpec
from maas.runtimes.base import LoadRequest

SIGNATURE = Signature(
    (TensorSpec("prompt", "BYTES"),), (TensorSpec("text", "BYTES"),), example={"prompt": "Hello"}
)
Runner = Callable[[int, range, int], list[float]]
"""So many at once, numbers of prompts, tokens per answer; seconds to the first text of each."""


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
            "logit_bias": [[token, -100.0] for token in ENDS["llama_cpp"]],
        }  # fmt: skip
        began, first, used = time.perf_counter(), 0.0, 0

        def chunk(data: bytes) -> bool:
            nonlocal first, used
            said = msgspec.json.decode(data)
            if not first and any(c.get("delta", {}).get("content") for c in said["choices"]):
                first = time.perf_counter()
            used = (said.get("usage") or {}).get("completion_tokens", used)
            return False

        server.handle_chat_completions(msgspec.json.encode(body), chunk)
        checked_count(used, tokens)
        return first - began

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

    def asked(number: int, tokens: int) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = tokens
        text = tokenizer.apply_chat_template(messages(number), add_generation_prompt=True)
        ids = tokenizer.encode(text, add_special_tokens=False).input_ids
        return pipeline.add_request(number, ids, config)

    def run(concurrency: int, numbers: range, tokens: int) -> list[float]:
        waiting, open_, waits = list(numbers)[::-1], {}, []
        while waiting or open_:
            while waiting and len(open_) < concurrency:
                began = time.perf_counter()
                number = waiting.pop()
                open_[number] = (asked(number, tokens), began, [])
            pipeline.step()
            for number, (handle, began, written) in list(open_.items()):
                while handle.can_read():
                    for output in handle.read().values():
                        if not written:
                            waits.append(time.perf_counter() - began)
                        written += output.generated_ids
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                    tokenizer.decode(written)
                    checked_count(len(written), tokens)
                    del open_[number]
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
        began = time.perf_counter()
        waits = run(concurrency, range(first, first + requests), tokens)
        print(json.dumps([time.perf_counter() - began, waits]), flush=True)


if __name__ == "__main__":
    main()
