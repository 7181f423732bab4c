"""The Open Inference Protocol through a client that others wrote: `tritonclient.http`."""

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
    """Two inputs, two outputs: `word` (BYTES) goes through, `sum` is a + b of two INT64."""
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
    """`echo`: y = x as version 1 and y = 2 x as version 2, half and half; and `words`."""
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
    with http.InferenceServerClient(f"127.0.0.1:{served.port}") as made:
        yield made


@pytest.fixture
def key(served: Stack) -> dict[str, str]:
    """What a caller sends with every request."""
    return {"Authorization": f"Bearer {served.token}"}


def tensor(name: str, values: np.ndarray[Any, Any], datatype: str, binary: bool = True) -> Any:
    made = http.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def refused(client: Any, key: dict[str, str], *args: Any, **more: Any) -> str:
    """The sentence of an inference that the server refuses."""
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


def test_without_a_key_nothing_is_said(client: Any) -> None:
    assert not client.is_server_live()
    assert not client.is_model_ready("echo")
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_metadata("echo")
    assert "401" in str(caught.value.status())
    message = refused(client, {"Authorization": "Bearer maas_wrong"}, "echo",
                      [tensor("x", ROWS, "FP32")])  # fmt: skip
    assert "key" in message


def test_the_key_may_come_in_its_own_header(client: Any, served: Stack) -> None:
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


def test_nobody_asked_for_outputs(client: Any, key: dict[str, str]) -> None:
    """tritonclient then asks for all of them in binary."""
    answer = client.infer("echo", [tensor("x", ROWS, "FP32")], model_version="1", headers=key)
    np.testing.assert_array_equal(answer.as_numpy("y"), ROWS)
    assert "id" not in answer.get_response()


def test_versions_have_their_own_paths_and_share_the_traffic_without(
    client: Any, key: dict[str, str]
) -> None:
    for version, factor in (("1", 1), ("2", 2)):
        answer = client.infer(
            "echo", [tensor("x", ROWS, "FP32")], model_version=version, headers=key
        )
        np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * factor)
        assert answer.get_response()["model_version"] == version
    seen = set()
    for _ in range(400):
        answer = client.infer("echo", [tensor("x", ROWS, "FP32")], headers=key)
        version = answer.get_response()["model_version"]
        np.testing.assert_array_equal(answer.as_numpy("y"), ROWS * int(version))
        seen.add(version)
        if len(seen) == 2:
            break
    assert seen == {"1", "2"}


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


def test_json_in_and_binary_in_of_one_request(client: Any, key: dict[str, str]) -> None:
    words = np.array([["a"]], np.object_)
    pairs = np.array([[3, 4]], np.int64)
    inputs = [tensor("word", words, "BYTES", False), tensor("pair", pairs, "INT64", True)]
    assert client.infer("words", inputs, headers=key).as_numpy("sum").tolist() == [[7]]


def test_errors_are_sentences(client: Any, key: dict[str, str]) -> None:
    x = [tensor("x", ROWS, "FP32")]
    assert "nothing" in refused(client, key, "nothing", x)
    assert "7" in refused(client, key, "echo", x, model_version="7")
    wrong_type = refused(client, key, "echo", [tensor("x", ROWS.astype(np.float64), "FP64")])
    assert "'x'" in wrong_type
    assert "FP32" in wrong_type
    assert "FP64" in wrong_type
    wrong_shape = refused(client, key, "echo", [tensor("x", np.zeros((1, 3), np.float32), "FP32")])
    assert "[n, 2]" in wrong_shape
    assert "[1, 3]" in wrong_shape
    flat = refused(client, key, "echo", [tensor("x", np.zeros(2, np.float32), "FP32")])
    assert "[n, 2]" in flat
    assert "'z'" in refused(client, key, "echo", [tensor("z", ROWS, "FP32")])
    assert "pair" in refused(
        client, key, "words", [tensor("word", np.array([["a"]], np.object_), "BYTES")]
    )
    assert "'q'" in refused(client, key, "echo", x, outputs=[http.InferRequestedOutput("q")])
    uneven = [
        tensor("word", np.array([["a"], ["b"]], np.object_), "BYTES"),
        tensor("pair", np.array([[1, 2]], np.int64), "INT64"),
    ]
    assert "rows" in refused(client, key, "words", uneven)
    answer = client.infer("echo", x, model_version="1", headers=key)
    np.testing.assert_array_equal(answer.as_numpy("y"), ROWS)


def test_a_compressed_request_is_refused_and_not_misread(client: Any, key: dict[str, str]) -> None:
    message = refused(
        client, key, "echo", [tensor("x", ROWS, "FP32")], request_compression_algorithm="gzip"
    )
    assert "Content-Encoding" in message
