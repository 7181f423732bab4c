"""The article network with FastAPI; `app` is for uvicorn. `handler` selects the form of the route.

typed:  pydantic for body and response, as in the documentation
mixed:  pydantic for the body, orjson for the response
raw:    orjson for both, without validation
"""

from __future__ import annotations

import numpy as np
import orjson
from engine import OPTIONS, load
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

app = FastAPI(openapi_url=None)
model = load("article")


class PredictRequest(BaseModel):
    x: list[float]


class PredictResponse(BaseModel):
    y_pred: float


def predict(x: list[float]) -> float:
    return float(model(np.asarray(x, dtype=np.float32).reshape(1, 10))[0, 0])


async def typed(request: PredictRequest) -> PredictResponse:
    return PredictResponse(y_pred=predict(request.x))


async def mixed(request: PredictRequest) -> Response:
    answer = {"y_pred": predict(request.x)}
    return Response(orjson.dumps(answer), media_type="application/json")


async def raw(request: Request) -> Response:
    answer = {"y_pred": predict(orjson.loads(await request.body())["x"])}
    return Response(orjson.dumps(answer), media_type="application/json")


# FastAPI resolves the annotations, which are strings, in this module.
handlers = {"typed": typed, "mixed": mixed, "raw": raw}
app.post("/predict")(handlers[OPTIONS["handler"]])


@app.get("/noop")
async def noop() -> Response:
    return Response(b"{}", media_type="application/json")
