"""Small ONNX models for tests, built with onnx's own helper."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from maas.domain.signature import Signature, TensorSpec


def save(graph: onnx.GraphProto, path: Path) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path.write_bytes(model.SerializeToString())
    return path


def echo_model(path: Path, width: int = 2, scale: float = 1.0) -> Path:
    """`y = x · scale` for rows of `width` floats: with scale 1 every response identifies its
    request."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        "echo",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(np.float32(scale), "scale")],
    )
    return save(graph, path)


def echo_signature(width: int = 2) -> Signature:
    return Signature(
        (TensorSpec("x", "FP32", (width,)),),
        (TensorSpec("y", "FP32", (width,)),),
        example={"x": [1.0] * width},
    )


def slow_model(path: Path, size: int = 600, rounds: int = 6) -> Path:
    """`y = x`, after `rounds` products of a size × size matrix per row: a few milliseconds each.

    The products are of the row's own values, so they cannot be folded away.
    """
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=1),  # [n, 1]
        helper.make_node("Unsqueeze", ["s", "last"], ["s3"]),  # [n, 1, 1]
        helper.make_node("Mul", ["s3", "matrix"], ["m0"]),  # [n, size, size]
    ]
    for at in range(rounds):
        nodes.append(helper.make_node("MatMul", [f"m{at}", "matrix"], [f"m{at + 1}"]))
    nodes += [
        helper.make_node("ReduceSum", [f"m{rounds}", "both"], ["t"], keepdims=0),  # [n]
        helper.make_node("Unsqueeze", ["t", "axes"], ["t1"]),
        helper.make_node("Mul", ["t1", "zero"], ["z"]),
        helper.make_node("Add", ["x", "z"], ["y"]),
    ]
    matrix = (np.eye(size) * 0.5).astype(np.float32)
    constants = {
        "axes": np.array([1], np.int64),
        "last": np.array([2], np.int64),
        "both": np.array([1, 2], np.int64),
        "matrix": matrix,
        "zero": np.float32(0.0),
    }
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    return save(graph, path)


def image_model(path: Path) -> Path:
    """The mean of a 3 × 224 × 224 image."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0)],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n"])],
    )
    return save(graph, path)


def mood_model(folder: Path) -> None:
    """A text classifier in the Hub's format: sums of its words' scores for `bad`, `good` and
    `neither`. Needs the package tokenizers."""
    import tokenizers

    words = ["[PAD]", "[UNK]", "great", "awful"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [PAD]", special_tokens=[("[PAD]", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "bad", "1": "good", "2": "neither"},
        "max_position_embeddings": 100,
        "model_type": "bert",
    }
    (folder / "config.json").write_text(json.dumps(config))
    scores = np.array([[0, 0, 0], [0, 0, 0.1], [-4, 4, 0], [4, -4, 0]], np.float32)
    scores[0, 2] = 0.1
    nodes = [
        helper.make_node("Gather", ["scores", "input_ids"], ["each"]),  # [n, t, 3]
        helper.make_node("Cast", ["attention_mask"], ["there"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["there", "last"], ["weights"]),
        helper.make_node("Mul", ["each", "weights"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "second"], ["logits"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "mood",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(scores, "scores"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
            numpy_helper.from_array(np.array([1], np.int64), "second"),
        ],
    )
    save(graph, folder / "model.onnx")
