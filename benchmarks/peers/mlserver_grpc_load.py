"""Closed-loop gRPC load on MLServer's image model with raw tensor bytes; prints one JSON line.

`python mlserver_grpc_load.py PORT ROWS.npy CONNECTIONS SECONDS`. Every connection has one pending
request, and its first answer is compared with the channel means.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import grpc
import numpy as np
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def request_of(row: np.ndarray) -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, *row.shape])
    data = row.astype("<f4").tobytes()
    return pb.ModelInferRequest(model_name="image", inputs=[tensor], raw_input_contents=[data])


def means(answer: pb.ModelInferResponse) -> np.ndarray:
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], dtype="<f4")
    return np.array(answer.outputs[0].contents.fp32_contents, dtype=np.float32)


async def caller(port: int, number: int, row: np.ndarray, until: float) -> int:
    request, done = request_of(row), 0
    # Channels with equal options share one connection, which different numbers prevent.
    options = [("bench.connection", number), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=LIMIT + options) as channel:
        stub = GRPCInferenceServiceStub(channel)
        while time.monotonic() < until:
            answer = await stub.ModelInfer(request)
            if not done and not np.allclose(means(answer), row.mean(axis=(1, 2)), atol=1e-3):
                raise SystemExit("wrong answer")
            done += 1
    return done


async def main() -> None:
    port, connections, seconds = int(sys.argv[1]), int(sys.argv[3]), float(sys.argv[4])
    rows = np.load(sys.argv[2])
    start = time.monotonic()
    until = start + seconds
    callers = [caller(port, i, rows[i % len(rows)], until) for i in range(connections)]
    done = sum(await asyncio.gather(*callers))
    print(json.dumps({"requests": done, "seconds": time.monotonic() - start}))


asyncio.run(main())
