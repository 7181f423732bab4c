"""A call to a replica for code that awaits the answer, such as control and measurements."""

from __future__ import annotations

import asyncio

from maas.domain.errors import MaasError
from maas.domain.signature import Signature
from maas.serving.routing.call import Call
from maas.serving.wire.messages import Answers, Priority, rows_of
from maas.serving.wire.tensors import Tensor, Tensors


class AwaitedCall(Call):
    """A call whose outcome is a future."""

    __slots__ = ("compute_us", "future", "signature")

    def __init__(
        self,
        signature: Signature,
        tensors: Tensors,
        rows: int,
        deadline: float,
        priority: Priority,
    ) -> None:
        inputs = [tensors[spec.name] for spec in signature.inputs]
        super().__init__(
            columns=[t.data for t in inputs],
            shapes=tuple(tuple(t.shape[1:]) for t in inputs),
            rows=rows,
            deadline=deadline,
            priority=priority,
        )
        self.travels_alone = signature.has_bytes
        self.signature = signature
        self.compute_us = 0
        """This call's share of the model's run time, in microseconds."""
        self.future: asyncio.Future[Tensors] = asyncio.get_running_loop().create_future()

    def answered(self, answers: Answers, at: int, first_row: int) -> None:
        if not self.future.done():
            self.compute_us += answers.compute_us * self.rows // (answers.batch_rows or 1)
            self.future.set_result(_answer_tensors(self.signature, answers, self.rows, first_row))

    def computed(self, compute_us: int, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        self.compute_us += compute_us

    def failed(self, error: MaasError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _answer_tensors(signature: Signature, answers: Answers, rows: int, first_row: int) -> Tensors:
    """Copies of the outputs of one call, whose frame may then be freed."""
    out: Tensors = {}
    for spec, column in zip(signature.outputs, answers.columns, strict=True):
        data = rows_of(column, first_row, rows, answers.total_rows)
        out[spec.name] = Tensor(spec.datatype, (rows, *column.shape), bytes(data))
    return out
