"""torch.nn.Module → one ONNX file with a batch dimension of any size, quietly and quickly."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from maas.domain.errors import InvalidInput
from maas.lifecycle.conversion.torch_translation import translated, whole_table

OPSET = 20
"""What torch's exporter writes by default; every onnxruntime that we accept reads it."""
LARGEST_FILE = 2_000_000_000
"""A file of the Protocol Buffers format ends at 2 GiB."""


def export_torch(
    module: torch.nn.Module,
    rows: Sequence[torch.Tensor],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> None:
    """Writes the module, which must be in eval mode, to `path`; `rows` are ≥ 2 per input.

    Raises InvalidInput if torch cannot turn it into a graph or the graph fixes the batch size.
    """
    weights = [*module.parameters(), *module.buffers()]
    size = sum(t.numel() * t.element_size() for t in weights)
    if size > LARGEST_FILE:
        raise InvalidInput(f"a model of at most {LARGEST_FILE} bytes fits an ONNX file; got {size}")
    batch = torch.export.Dim("batch", min=1)
    with _quiet(), _uncollected():
        try:
            graph = torch.export.export(
                module, tuple(rows), dynamic_shapes=tuple({0: batch} for _ in rows), strict=False
            )
            program = _translate(graph, list(input_names), list(output_names))
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
            raise InvalidInput(_why(module, error), field="model") from error
        _forget_origin(program.model)
        _name_batch(program.model.graph)
        program.save(path, external_data=False)


def _translate(
    graph: torch.export.ExportedProgram, inputs: list[str], outputs: list[str]
) -> torch.onnx.ONNXProgram:
    """As torch.onnx.export(graph, dynamo=True), and as far as that goes without the steps that
    are slow in it. With a torch whose insides are different, or if it reports an error, that is
    what is called."""
    program = translated(graph, inputs, outputs, OPSET)
    if program is not None:
        return program
    table = whole_table(OPSET)
    if table is not None:
        from torch.onnx._internal.exporter import _core  # noqa: PLC0415

        return _core.export(
            graph,
            registry=table,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    program = torch.onnx.export(
        graph,
        dynamo=True,
        input_names=inputs,
        output_names=outputs,
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    return program


def _forget_origin(model: Any) -> None:
    """Takes the source files and stack traces of the owner's machine out of the graph.

    They are nobody's business, and they would make equal models unequal files.
    """
    graphs = [model.graph, *model.functions.values()]
    for graph in graphs:
        for node in graph.all_nodes():
            node.doc_string = None
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        for value in graph.inputs:
            value.metadata_props.clear()
        graph.metadata_props.clear()
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
    model.metadata_props.clear()


def _name_batch(graph: Any) -> None:
    """Calls the batch dimension `batch`, which torch calls by a number of its own."""
    symbol = str(graph.inputs[0].shape[0])
    values = [*graph.inputs, *(v for node in graph.all_nodes() for v in node.outputs)]
    for value in values:
        for at, size in enumerate(value.shape or ()):
            if str(size) == symbol:
                value.shape[at] = "batch"


def _why(module: torch.nn.Module, error: Exception) -> str:
    name = type(module).__name__
    text = " ".join(str(error).partition("For more information")[0].split())
    if "batch" in text and ("constant" in text or "specialized" in text or "Constraints" in text):
        return (
            f"{name} only takes the batch size of the example; make its forward work for any "
            "x.shape[0]"
        )
    return f"torch cannot turn {name} into ONNX: {text[:600]}"


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without Python's search for garbage: an exporter that is imported makes a million objects
    that stay, and looking at them again and again takes a fifth of the first export's time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes about packages that are not installed and its deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        output = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
