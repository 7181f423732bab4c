"""ONNX files are checked for data in other files without loading them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from maas.control.publishing.onnx_check import check_onnx
from maas.domain.errors import InvalidInput, UnsafeArtifact


def tensor(external: bool = False, name: str = "t") -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    if external:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "../../etc/passwd"
    return tensor


def graph(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> GraphProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    return helper.make_graph(list(nodes), "g", [x], [x], list(initializers))


def model(inner: GraphProto) -> ModelProto:
    return helper.make_model(inner)


def check(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "0123abcd"
    path.write_bytes(data)
    check_onnx(path, "model.onnx")


def constant(value: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=value)


def hiding_places(external: bool) -> dict[str, ModelProto]:
    """Models with a tensor in each place of an ONNX file that can have one."""
    lying = tensor(external)
    listed = helper.make_node("Custom", [], ["c"])
    listed.attribute.add(name="all", type=AttributeProto.TENSORS).tensors.append(lying)
    branch = graph(constant(lying))
    inner = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=graph())
    nested = helper.make_node("If", ["x"], ["y"], then_branch=graph(inner), else_branch=graph())
    sparse = graph()
    sparse.sparse_initializer.add().values.CopyFrom(lying)
    function = model(graph())
    function.functions.add(name="f", domain="d").node.append(constant(lying))
    training = model(graph())
    training.training_info.add().algorithm.CopyFrom(branch)
    graphs = helper.make_node("Custom", [], ["c"])
    graphs.attribute.add(name="all", type=AttributeProto.GRAPHS).graphs.append(branch)
    return {
        "initializer": model(graph(initializers=(tensor(name="fine"), lying))),
        "attribute": model(graph(constant(lying))),
        "list of tensors": model(graph(listed)),
        "subgraph": model(graph(nested)),
        "list of graphs": model(graph(graphs)),
        "sparse initializer": model(sparse),
        "function": function,
        "training": training,
    }


@pytest.mark.parametrize("place", sorted(hiding_places(external=False)))
def test_external_data_is_found_in_every_place(tmp_path: Path, place: str) -> None:
    check(tmp_path, hiding_places(external=False)[place].SerializeToString())
    with pytest.raises(UnsafeArtifact, match=r"model\.onnx: a tensor's data is in another file"):
        check(tmp_path, hiding_places(external=True)[place].SerializeToString())


def test_each_of_the_two_fields_is_enough(tmp_path: Path) -> None:
    only_location = tensor()
    only_location.data_location = TensorProto.EXTERNAL
    only_entries = tensor(external=True)
    only_entries.ClearField("data_location")
    for lying in (only_location, only_entries):
        with pytest.raises(UnsafeArtifact):
            check(tmp_path, model(graph(initializers=(lying,))).SerializeToString())


def test_garbage_is_refused(tmp_path: Path) -> None:
    good = model(graph(constant(tensor()))).SerializeToString()
    random = np.random.default_rng(0)
    cases = [b"", b"\0", b"hello", b"\xff" * 40, good[:-3], good[: len(good) // 2], b"\x08\x08",
             b"<html>", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"]  # fmt: skip
    cases += [random.bytes(500) for _ in range(50)]
    for data in cases:
        with pytest.raises(InvalidInput, match="is not an ONNX model"):
            check(tmp_path, data)


def test_flipped_bytes_raise_no_other_error(tmp_path: Path) -> None:
    good = model(graph(constant(tensor()))).SerializeToString()
    for at in range(len(good)):
        for flip in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[at] ^= flip
            with contextlib.suppress(InvalidInput):
                check(tmp_path, bytes(bad))


def nested(levels: int) -> bytes:
    """Raw protobuf of a graph in an attribute of a node of a graph, and so on."""

    def field(number: int, content: bytes) -> bytes:
        size, length = len(content), b""
        while size >= 0x80:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    inner = b""
    for _ in range(levels):
        inner = field(1, field(5, field(6, inner)))
    return b"\x08\x09" + field(7, inner)


def test_the_depth_is_limited(tmp_path: Path) -> None:
    check(tmp_path, nested(20))
    for levels in (30, 3000):
        with pytest.raises(InvalidInput, match="nested more than 64 levels deep"):
            check(tmp_path, nested(levels))
