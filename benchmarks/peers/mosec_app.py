"""The article network with mosec: `python mosec_app.py --port PORT` and mosec's own arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from engine import OPTIONS, load
from mosec import Server, Worker


class Article(Worker):
    """`forward` gets a list of requests if `max_batch_size` is above 1, else one request."""

    def __init__(self) -> None:
        self.model = load("article")

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps(data)

    def forward(self, data: Any) -> Any:
        if isinstance(data, list):
            answers = self.model(np.array([d["x"] for d in data], dtype=np.float32))
            return [{"y_pred": y} for y in answers[:, 0].tolist()]
        row = np.array(data["x"], dtype=np.float32).reshape(1, 10)
        return {"y_pred": float(self.model(row)[0, 0])}


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Article,
        num=1,
        max_batch_size=OPTIONS["batch"],
        max_wait_time=OPTIONS["wait_ms"],
        route="/predict",
    )
    server.run()
