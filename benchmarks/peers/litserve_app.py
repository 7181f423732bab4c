"""The article network with LitServe: `python litserve_app.py PORT`.

Without `from __future__ import annotations`, because LitServe inspects the annotations.
"""

import sys
from typing import Any

import litserve as ls
import numpy as np
from engine import OPTIONS, load
from fastapi import Response


class Article(ls.LitAPI):
    """`predict` gets a stacked batch if `max_batch_size` is above 1, else one row."""

    def setup(self, device: str) -> None:
        self.model = load("article")

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        return np.asarray(request["x"], dtype=np.float32)

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return np.stack(inputs)

    def predict(self, x: np.ndarray) -> Any:
        return self.model(x.reshape(-1, 10)) if x.ndim == 2 else self.model(x.reshape(1, 10))[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict[str, float]:
        return {"y_pred": float(output[0])}


if __name__ == "__main__":
    server = ls.LitServer(
        Article(max_batch_size=OPTIONS["batch"], batch_timeout=OPTIONS["wait_s"]),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=OPTIONS["fast_queue"],
        timeout=30,
    )

    @server.app.get("/noop")
    async def noop() -> Response:
        return Response(b"{}", media_type="application/json")

    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=OPTIONS.get("api_servers", 1),
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )
