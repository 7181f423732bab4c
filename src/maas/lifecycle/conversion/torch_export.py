"""Export of a torch.nn.Module to one ONNX file with a free batch dimension."""

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
"""Default of torch's exporter; every supported onnxruntime reads it."""
LARGEST_FILE = 2_000_000_000
"""Bytes; Protocol Buffers limits a file to 2 GiB."""


def export_torch(
    module: torch.nn.Module,
    rows: Sequence[torch.Tensor],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> None:
    """Writes the module, which must be in eval mode, to `path`; `rows` has at least 2 per input.

    Raises InvalidInput if torch cannot trace the module or the graph fixes the batch size.
    """
    weights = [*module.parameters(), *module.buffers()]
    size = sum(t.numel() * t.element_size() for t in weights)
    if size > LARGEST_FILE:
        raise InvalidInput(
            f"an ONNX file holds at most {LARGEST_FILE} bytes of weights; got {size}"
        )
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
    """The program of torch.onnx.export(graph, dynamo=True), without its slow steps if possible.

    Falls back to torch.onnx.export if torch's internals differ or the fast path fails.
    """
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
    """Removes paths of source files and stack traces of the owner's machine from the graph.

    They are private, and they would give equal models different files.
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
    """Renames the batch dimension, to which torch gives a generated name, to `batch`."""
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
            f"{name} takes only the batch size of the example; its forward must work for any "
            "x.shape[0]"
        )
    return f"torch cannot export {name} to ONNX: {text[:600]}"


@contextmanager
def _uncollected() -> Iterator[None]:
    """Disables garbage collection: importing the exporter creates a million permanent objects, and
    scanning them repeatedly takes a fifth of the first export's time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the exporter's notes about missing packages and its deprecation warnings."""
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
