"""Formats of the same request in several protocols, with their responses."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import numpy as np

from benchmarks.harness.models import Array, Workload, as_json

JSON_TYPE = {"content-type": "application/json"}


class RequestFormat:
    """Conversion of a row to an HTTP body, and of the response to the outputs."""

    name = ""

    def encode(self, work: Workload, row: Array) -> tuple[dict[str, str], bytes]:
        """Headers and body of a request with one row."""
        raise NotImplementedError

    def decode(self, work: Workload, headers: Mapping[str, str], body: bytes) -> Array:
        """Outputs for that row, flat float32."""
        raise NotImplementedError


class Plain(RequestFormat):
    """`{"x": [...]}` to `{"y_pred": 0.1}`."""

    name = "JSON"

    def encode(self, work: Workload, row: Array) -> tuple[dict[str, str], bytes]:
        return JSON_TYPE, json.dumps({work.input_name: as_json(row)}).encode()

    def decode(self, work: Workload, headers: Mapping[str, str], body: bytes) -> Array:
        return np.asarray(json.loads(body)[work.output_name], dtype=np.float32).ravel()


class OipJson(RequestFormat):
    """Open Inference Protocol v2 with the tensor as JSON numbers."""

    name = "OIP v2 JSON"

    def encode(self, work: Workload, row: Array) -> tuple[dict[str, str], bytes]:
        tensor = {
            "name": work.input_name,
            "shape": [1, *row.shape],
            "datatype": "FP32",
            "data": as_json(row.ravel()),
        }
        return JSON_TYPE, json.dumps({"inputs": [tensor]}).encode()

    def decode(self, work: Workload, headers: Mapping[str, str], body: bytes) -> Array:
        (output,) = json.loads(body)["outputs"]
        return np.asarray(output["data"], dtype=np.float32).ravel()


class OipBinary(RequestFormat):
    """Open Inference Protocol v2 with the binary tensor extension in both directions."""

    name = "OIP v2 binary"

    def encode(self, work: Workload, row: Array) -> tuple[dict[str, str], bytes]:
        data = row.astype("<f4").tobytes()
        tensor = {
            "name": work.input_name,
            "shape": [1, *row.shape],
            "datatype": "FP32",
            "parameters": {"binary_data_size": len(data)},
        }
        output = {"name": work.output_name, "parameters": {"binary_data": True}}
        head = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
        headers = {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(head)),
        }
        return headers, head + data

    def decode(self, work: Workload, headers: Mapping[str, str], body: bytes) -> Array:
        size = int(headers["inference-header-content-length"])
        (output,) = json.loads(body[:size])["outputs"]
        length = int(output["parameters"]["binary_data_size"])
        return np.frombuffer(body[size : size + length], dtype="<f4")


class OipBase64(RequestFormat):
    """Open Inference Protocol v2 with the tensor's bytes as base64 text.

    MLServer has no binary tensor extension over REST; base64 BYTES is its fastest format.
    """

    name = "OIP v2 base64"

    def encode(self, work: Workload, row: Array) -> tuple[dict[str, str], bytes]:
        tensor = {
            "name": work.input_name,
            "shape": [1],
            "datatype": "BYTES",
            "parameters": {"content_type": "base64"},
            "data": [base64.b64encode(row.astype("<f4").tobytes()).decode()],
        }
        return JSON_TYPE, json.dumps({"inputs": [tensor]}).encode()

    decode = OipJson.decode
