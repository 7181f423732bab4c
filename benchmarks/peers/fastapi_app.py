"""The article net behind FastAPI; `app` for uvicorn. `handler` says how the route is written.

typed:  a pydantic body and a pydantic answer, as the documentation teaches
mixed:  a pydantic body, the answer written by orjson
raw:    the body read by orjson, the answer written by orjson; no validation
"""

from __future__ import annotations

import numpy as np
import orjson
from engine import OPTIONS, load
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

app = FastAPI(openapi_url=None)
model = load("article")


class Question(BaseModel):
    x: list[float]


class Answer(BaseModel):
    y_pred: float


def ask(x: list[float]) -> float:
    return float(model(np.asarray(x, dtype=np.float32).reshape(1, 10))[0, 0])


async def typed(question: Question) -> Answer:
    return Answer(y_pred=ask(question.x))


async def mixed(question: Question) -> Response:
    answer = {"y_pred": ask(question.x)}
    return Response(orjson.dumps(answer), media_type="application/json")


async def raw(request: Request) -> Response:
    answer = {"y_pred": ask(orjson.loads(await request.body())["x"])}
    return Response(orjson.dumps(answer), media_type="application/json")


# Annotations are strings here; FastAPI finds them in this module.
handlers = {"typed": typed, "mixed": mixed, "raw": raw}
app.post("/predict")(handlers[OPTIONS["handler"]])


@app.get("/noop")
async def noop() -> Response:
    return Response(b"{}", media_type="application/json")
