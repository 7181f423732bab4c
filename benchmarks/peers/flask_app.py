"""The article network with Flask: `python flask_app.py PORT`, or `app` for a WSGI server."""

from __future__ import annotations

import sys

import numpy as np
import orjson
from engine import load
from flask import Flask, Response, request

app = Flask(__name__)
model = load("article")


@app.post("/predict")
def predict() -> Response:
    row = np.asarray(orjson.loads(request.get_data())["x"], dtype=np.float32)
    answer = {"y_pred": float(model(row.reshape(1, 10))[0, 0])}
    return Response(orjson.dumps(answer), mimetype="application/json")


@app.get("/noop")
def noop() -> Response:
    return Response(b"{}", mimetype="application/json")


if __name__ == "__main__":
    # The development server of tutorials, which logs every request.
    app.run(host="127.0.0.1", port=int(sys.argv[1]))
