"""The Open Inference Protocol through an independent client, `tritonclient.http`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.models.onnx import echo_model, save
from tests.support.servers.maas import Stack, running

http = pytest.importorskip(
    "tritonclient.http", reason="tritonclient[http] is not installed", exc_type=ImportError
)
InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException

ROWS = np.array([[1.5, -2.0], [0.0, 3.25], [1e-30, 1e30]], np.float32)


def words_model(path: Path) -> Path:
    """A model with two inputs and outputs: `word` (BYTES) is echoed, `sum` adds two INT64."""
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["word"], ["same"]),
            helper.make_node("ReduceSum", ["pair"], ["sum"], keepdims=1),
        ],
        "words",
        [
            helper.make_tensor_value_info("word", TensorProto.STRING, ["n", 1]),
            helper.make_tensor_value_info("pair", TensorProto.INT64, ["n", 2]),
        ],
        [
            helper.make_tensor_value_info("same", TensorProto.STRING, ["n", 1]),
            helper.make_tensor_value_info("sum", TensorProto.INT64, ["n", 1]),
        ],
    )
    graph.node[1].input.append("axes")
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axes"))
    return save(graph, path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`echo`, half version 1 (y = x) and half version 2 (y = 2 x); and `words`."""
    home: Path = tmp_path_factory.mktemp("h")
    with running(home) as stack:
        client = stack.client()
        for scale in (1.0, 2.0):
            path = echo_model(home / f"echo{scale:.0f}.onnx", scale=scale)
            client.publish(path, name="echo", example=[1.0, 2.0])
        client.publish(
            words_model(home / "words.onnx"),
            name="words",
            example={"word": ["a"], "pair": [1, 2]},
        )
        client.deploy("words")
        status, _, body = stack.request(
            "PUT",
            "/api/v1/deployments/echo",
            {
                "model": "echo",
                "targets": [{"version": 1, "weight": 1}, {"version": 2, "weight": 1}],
            },
        )
        assert status == 200, body
        stack.wait_ready("echo")
        yield stack


@pytest.fixture
def client(served: Stack) -> Iterator[Any]:
    with http.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        yield client


@pytest.fixture
def key(served: Stack) -> dict[str, str]:
    """The headers of every request."""
    return {"Authorization": f"Bearer {served.token}"}


def tensor(name: str, values: np.ndarray[Any, Any], datatype: str, binary: bool = True) -> Any:
    tensor = http.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=binary)
    return tensor


def refusal(client: Any, key: dict[str, str], *args: Any, **more: Any) -> str:
    """The message with which the server refuses an inference."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer(*args, headers=key, **more)
    message = str(caught.value.message())
    assert " " in message
    return message


def test_the_server_is_live_and_ready(client: Any, key: dict[str, str]) -> None:
    assert client.is_server_live(headers=key)
    assert client.is_server_ready(headers=key)
    assert client.is_model_ready("echo", headers=key)
    assert client.is_model_ready("echo", "2", headers=key)
    assert not client.is_model_ready("echo", "7", headers=key)
    assert not client.is_model_ready("nothing", headers=key)


def test_without_a_key_nothing_is_answered(client: Any) -> None:
    assert not client.is_server_live()
    assert not client.is_model_ready("echo")
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_metadata("echo")
    assert "401" in str(caught.value.status())
    message = refusal(client, {"Authorization": "Bearer maas_wrong"}, "echo",
                      [tensor("x", ROWS, "FP32")])  # fmt: skip
    assert "key" in message


def test_the_key_is_accepted_in_x_api_key(client: Any, served: Stack) -> None:
    assert client.is_model_ready("echo", headers={"X-API-Key": served.token})


def test_metadata(client: Any, key: dict[str, str]) -> None:
    server = client.get_server_metadata(headers=key)
    assert server["name"] == "openmaas"
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata("words", headers=key)
    assert model["name"] == "words"
    assert model["versions"] == ["1"]
    assert model["platform"]
    assert model["inputs"] == [
        {"name": "word", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "pair", "datatype": "INT64", "shape": [-1, 2]},
    ]
    assert model["outputs"] == [
        {"name": "same", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "sum", "datatype": "INT64", "shape": [-1, 1]},
    ]
    one = client.get_model_metadata("echo", "2", headers=key)
    assert sorted(one["versions"]) == ["1", "2"]
    with pytest.raises(InferenceServerException):
        client.get_model_metadata("nothing", headers=key)


@pytest.mark.parametrize(
    ("binary_in", "binary_out"), list(itertools.product([False, True], repeat=2))
)
def test_inference_in_every_form(
    client: Any, key: dict[str, str], binary_in: bool, binary_out: bool
) -> None:
    inputs = [tensor("x", ROWS, "FP32", binary_in)]
    outputs = [http.InferRequestedOutput("y", binary_data=binary_out)]
    answer = client.infer(
        "echo", inputs, model_version="2", outputs=outputs, request_id="r-17", headers=key
    )
    np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * 2)
    raw = answer.get_response()
    assert (raw["id"], raw["model_name"], raw["model_version"]) == ("r-17", "echo", "2")
    (output,) = raw["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [3, 2])
    assert ("data" in output) is not binary_out


def test_without_requested_outputs_all_are_returned(client: Any, key: dict[str, str]) -> None:
    """tritonclient then requests all of them in binary."""
    answer = client.infer("echo", [tensor("x", ROWS, "FP32")], model_version="1", headers=key)
    np.testing.assert_array_equal(answer.as_numpy("y"), ROWS)
    assert "id" not in answer.get_response()


def test_versions_have_paths_and_share_the_traffic_without_one(
    client: Any, key: dict[str, str]
) -> None:
    for version, factor in (("1", 1), ("2", 2)):
        answer = client.infer(
            "echo", [tensor("x", ROWS, "FP32")], model_version=version, headers=key
        )
        np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * factor)
        assert answer.get_response()["model_version"] == version
    versions = set()
    for _ in range(400):
        answer = client.infer("echo", [tensor("x", ROWS, "FP32")], headers=key)
        version = answer.get_response()["model_version"]
        np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * int(version))
        versions.add(version)
        if len(versions) == 2:
            break
    assert versions == {"1", "2"}


@pytest.mark.parametrize(
    ("binary_in", "binary_out"), list(itertools.product([False, True], repeat=2))
)
def test_texts_and_several_inputs(
    client: Any, key: dict[str, str], binary_in: bool, binary_out: bool
) -> None:
    words = np.array([["grün"], [""], ["a" * 3000]], np.object_)
    pairs = np.array([[1, 2], [-5, 2**40], [0, 0]], np.int64)
    inputs = [tensor("pair", pairs, "INT64", binary_in), tensor("word", words, "BYTES", binary_in)]
    outputs = [
        http.InferRequestedOutput("sum", binary_data=binary_out),
        http.InferRequestedOutput("same", binary_data=binary_out),
    ]
    answer = client.infer("words", inputs, outputs=outputs, headers=key)
    np.testing.assert_array_equal(answer.as_numpy("sum"), pairs.sum(axis=1, keepdims=True))
    texts = [
        item.decode() if isinstance(item, bytes) else item for item in answer.as_numpy("same")[:, 0]
    ]
    assert texts == ["grün", "", "a" * 3000]
    only = client.infer("words", inputs, outputs=outputs[:1], headers=key)
    assert only.as_numpy("same") is None
    assert [o["name"] for o in only.get_response()["outputs"]] == ["sum"]


def test_json_and_binary_inputs_in_one_request(client: Any, key: dict[str, str]) -> None:
    words = np.array([["a"]], np.object_)
    pairs = np.array([[3, 4]], np.int64)
    inputs = [tensor("word", words, "BYTES", False), tensor("pair", pairs, "INT64", True)]
    assert client.infer("words", inputs, headers=key).as_numpy("sum").tolist() == [[7]]


def test_errors_have_messages(client: Any, key: dict[str, str]) -> None:
    x = [tensor("x", ROWS, "FP32")]
    assert "nothing" in refusal(client, key, "nothing", x)
    assert "7" in refusal(client, key, "echo", x, model_version="7")
    wrong_type = refusal(client, key, "echo", [tensor("x", ROWS.astype(np.float64), "FP64")])
    assert "'x'" in wrong_type
    assert "FP32" in wrong_type
    assert "FP64" in wrong_type
    wrong_shape = refusal(client, key, "echo", [tensor("x", np.zeros((1, 3), np.float32), "FP32")])
    assert "[n, 2]" in wrong_shape
    assert "[1, 3]" in wrong_shape
    flat = refusal(client, key, "echo", [tensor("x", np.zeros(2, np.float32), "FP32")])
    assert "[n, 2]" in flat
    assert "'z'" in refusal(client, key, "echo", [tensor("z", ROWS, "FP32")])
    assert "pair" in refusal(
        client, key, "words", [tensor("word", np.array([["a"]], np.object_), "BYTES")]
    )
    assert "'q'" in refusal(client, key, "echo", x, outputs=[http.InferRequestedOutput("q")])
    uneven = [
        tensor("word", np.array([["a"], ["b"]], np.object_), "BYTES"),
        tensor("pair", np.array([[1, 2]], np.int64), "INT64"),
    ]
    assert "rows" in refusal(client, key, "words", uneven)
    answer = client.infer("echo", x, model_version="1", headers=key)
    np.testing.assert_array_equal(answer.as_numpy("y"), ROWS)


def test_a_compressed_request_is_refused(client: Any, key: dict[str, str]) -> None:
    message = refusal(
        client, key, "echo", [tensor("x", ROWS, "FP32")], request_compression_algorithm="gzip"
    )
    assert "Content-Encoding" in message
