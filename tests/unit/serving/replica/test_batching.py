"""Batches become arrays for the runtime."""

from __future__ import annotations

from array import array

import numpy as np
import pytest

from maas.domain.errors import InvalidInput
from maas.domain.signature import Signature, TensorSpec
from maas.runtimes.base import Arrays
from maas.serving.replica.batching import Batcher
from maas.serving.replica.queue import RequestGroup
from maas.serving.wire.messages import Priority
from tests.support.fakes.model_server import Model


def group_of(column: bytes) -> RequestGroup:
    """One row of one BYTES input."""
    return RequestGroup(
        array("Q", [1]),
        array("I", [1]),
        array("d", [0.0]),
        0,
        Priority.NORMAL,
        ((),),
        [column],
        None,
        0.0,
        1,
    )


def test_bytes_reach_the_model_as_bytes_or_as_text() -> None:
    signature = Signature((TensorSpec("x", "BYTES"),), (TensorSpec("y", "FP32", (1,)),))
    computed: list[object] = []

    def predict_bytes(inputs: Arrays) -> Arrays:
        computed.extend(inputs["x"].tolist())
        return {"y": np.zeros((len(inputs["x"]), 1), np.float32)}

    class Images(Model):
        takes_bytes = True

    for kind, data in ((Images, b"\xff"), (Model, b"a")):
        column = len(data).to_bytes(4, "little") + data
        batcher = Batcher(kind(predict_bytes), signature, 4)
        batcher.run([group_of(column)])
    assert computed == [b"\xff", "a"]
    with pytest.raises(InvalidInput, match="UTF-8"):
        Batcher(Model(predict_bytes), signature, 4).run([group_of(b"\1\0\0\0\xff")])
