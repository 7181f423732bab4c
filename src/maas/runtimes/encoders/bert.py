"""Builds the ONNX graph of a BERT from config.json and model.safetensors.

So ONNX Runtime serves an encoder as it is published, without torch and without a conversion.
Source: Devlin et al., BERT, 2018; RoBERTa (Liu et al., 2019) differs in the first position. Weights
have the names of the Hugging Face library.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maas.domain.errors import InvalidInput
from maas.domain.names import shown

Weights = dict[str, NDArray[np.float32]]

OPSET = 20
TYPES = ("bert", "roberta", "xlm-roberta", "camembert")
_ACTIVATIONS = {
    "gelu": ("Gelu", {"approximate": "none"}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
}


def bert_graph(config: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> bytes:
    """The serialized model: `input_ids` and `attention_mask`, INT64 [n, t], to
    `last_hidden_state`, FP32 [n, t, hidden].

    Raises InvalidInput for another architecture or a missing weight.
    """
    return _GraphBuilder(config, tensors).build()


class _GraphBuilder:
    """Collects nodes and constants. Methods that add a part return the name of its output."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        # Needed only for encoders in safetensors.
        from onnx import helper, numpy_helper  # noqa: PLC0415

        self._onnx = helper
        self._to_tensor = numpy_helper.from_array
        self._type = config.get("model_type")
        if self._type not in TYPES or config.get("position_embedding_type") not in (
            None,
            "absolute",
        ):
            raise InvalidInput(
                f"config.json says model_type {shown(self._type)}; encoders of the types "
                f"{', '.join(TYPES)} with absolute positions are served from model.safetensors, "
                "all others from model.onnx",
                field="files",
            )
        self._hidden = _size(config, "hidden_size")
        self._heads = _size(config, "num_attention_heads")
        self._layers = _size(config, "num_hidden_layers")
        self._epsilon = float(config.get("layer_norm_eps", 1e-12))
        self._pad = int(config.get("pad_token_id") or 0)
        activation = str(config.get("hidden_act", "gelu"))
        if activation not in _ACTIVATIONS or self._hidden % self._heads:
            raise InvalidInput(f"config.json: hidden_act {shown(activation)} is not supported")
        self._activation = _ACTIVATIONS[activation]
        self._prefix = next(
            (p for p in ("", "bert.", "roberta.") if f"{p}embeddings.LayerNorm.weight" in tensors),
            "",
        )
        self._tensors = tensors
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def build(self) -> bytes:
        helper = self._onnx
        self._ints("split_shape", [0, 0, self._heads, self._hidden // self._heads])
        self._ints("merged_shape", [0, 0, self._hidden])
        state = self._embeddings()
        self._add_mask()
        for layer in range(self._layers):
            state = self._layer(state, layer)
        self._node("Identity", [state], "last_hidden_state")
        from onnx import TensorProto  # noqa: PLC0415

        ids = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"])
            for name in ("input_ids", "attention_mask")
        ]
        out = helper.make_tensor_value_info(
            "last_hidden_state", TensorProto.FLOAT, ["n", "t", self._hidden]
        )
        graph = helper.make_graph(self._nodes, "bert", ids, [out], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 9
        data: bytes = model.SerializeToString()
        return data

    def _embeddings(self) -> str:
        word_weight = self._weight("embeddings.word_embeddings.weight")
        # The token type is always 0.
        token_type = self._tensor("embeddings.token_type_embeddings.weight")[0]
        first = 0 if self._type == "bert" else self._pad + 1
        positions = self._tensor("embeddings.position_embeddings.weight")[first:] + token_type
        self._constant("positions", positions)
        self._ints("zero", [0])
        self._node("Gather", [word_weight, "input_ids"], "word_vectors")
        self._node("Shape", ["input_ids"], "length", start=1, end=2)
        self._node("Slice", ["positions", "zero", "length"], "position_vectors")
        self._node("Add", ["word_vectors", "position_vectors"], "embedded")
        return self._layer_norm("embedded", "embeddings.LayerNorm")

    def _add_mask(self) -> None:
        """Adds the attention mask as a term of the scores: a very negative number for padding."""
        from onnx import TensorProto  # noqa: PLC0415

        self._constant("one", np.float32(1.0))
        self._constant("very_negative", np.float32(-1e9))
        self._ints("mask_axes", [1, 2])
        self._node("Cast", ["attention_mask"], "mask_values", to=TensorProto.FLOAT)
        self._node("Sub", ["one", "mask_values"], "padding")
        self._node("Mul", ["padding", "very_negative"], "padding_bias")
        self._node("Unsqueeze", ["padding_bias", "mask_axes"], "mask")

    def _layer(self, state: str, layer: int) -> str:
        at = f"encoder.layer.{layer}."
        scale = 1 / math.sqrt(self._hidden // self._heads)
        query = self._heads_of(state, at + "attention.self.query", [0, 2, 1, 3], scale)
        key = self._heads_of(state, at + "attention.self.key", [0, 2, 3, 1])
        value = self._heads_of(state, at + "attention.self.value", [0, 2, 1, 3])
        self._node("MatMul", [query, key], at + "scores")
        self._node("Add", [at + "scores", "mask"], at + "masked")
        self._node("Softmax", [at + "masked"], at + "probabilities", axis=-1)
        self._node("MatMul", [at + "probabilities", value], at + "context")
        self._node("Transpose", [at + "context"], at + "transposed", perm=[0, 2, 1, 3])
        self._node("Reshape", [at + "transposed", "merged_shape"], at + "merged")
        attended = self._linear(at + "merged", at + "attention.output.dense")
        self._node("Add", [attended, state], at + "attended")
        state = self._layer_norm(at + "attended", at + "attention.output.LayerNorm")
        wide = self._linear(state, at + "intermediate.dense")
        kind, attributes = self._activation
        self._node(kind, [wide], at + "active", **attributes)
        narrow = self._linear(at + "active", at + "output.dense")
        self._node("Add", [narrow, state], at + "sum")
        return self._layer_norm(at + "sum", at + "output.LayerNorm")

    def _heads_of(self, state: str, name: str, order: list[int], scale: float = 1.0) -> str:
        flat = self._linear(state, name, scale)
        self._node("Reshape", [flat, "split_shape"], name + ".split")
        self._node("Transpose", [name + ".split"], name + ".heads", perm=order)
        return name + ".heads"

    def _linear(self, state: str, name: str, scale: float = 1.0) -> str:
        weight = np.ascontiguousarray(self._tensor(name + ".weight").T) * np.float32(scale)
        self._constant(name + ".weight", weight)
        self._constant(name + ".bias", self._tensor(name + ".bias") * np.float32(scale))
        self._node("MatMul", [state, name + ".weight"], name + ".product")
        self._node("Add", [name + ".product", name + ".bias"], name)
        return name

    def _layer_norm(self, state: str, name: str) -> str:
        inputs = [state, self._weight(name + ".weight"), self._weight(name + ".bias")]
        self._node("LayerNormalization", inputs, name, axis=-1, epsilon=self._epsilon)
        return name

    def _tensor(self, name: str) -> NDArray[Any]:
        try:
            return self._tensors[self._prefix + name].astype(np.float32, copy=False)
        except KeyError:
            raise InvalidInput(f"model.safetensors lacks {self._prefix + name}") from None

    def _weight(self, name: str) -> str:
        self._constant(name, self._tensor(name))
        return name

    def _constant(self, name: str, value: Any) -> None:
        self._constants.append(self._to_tensor(np.asarray(value), name))

    def _ints(self, name: str, values: list[int]) -> None:
        self._constant(name, np.array(values, np.int64))

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(self._onnx.make_node(kind, inputs, [output], **attributes))


def _size(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 20:
        raise InvalidInput(f"config.json: {name} must be a whole number from 1; got {shown(value)}")
    return value
