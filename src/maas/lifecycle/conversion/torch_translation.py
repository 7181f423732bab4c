"""Translation of a torch.export graph to ONNX by the necessary steps of torch.onnx.export only.

For a small network torch.onnx.export(dynamo=True) takes two seconds in a fresh process: it builds a
table of some 550 translations, parsing the source of each, and traces the graph again to decompose
operators without a translation. This module looks up only the translations of the graph's own
operators; if all have one, nothing needs to be decomposed. A test compares the file with torch's
byte by byte. Other graphs, and versions of torch with other internals, use torch's own exporter.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

_OTHER_INTERNALS = (ImportError, AttributeError, TypeError, LookupError, AssertionError)


def translated(
    graph: torch.export.ExportedProgram, inputs: Sequence[str], outputs: Sequence[str], opset: int
) -> torch.onnx.ONNXProgram | None:
    """The program; None if the graph or this version of torch needs torch's own exporter."""
    try:
        operators = _operators(graph)
        table = None if operators is None else _small_table(operators, opset)
        if table is None:
            return None
        from torch.onnx._internal.exporter import _flags  # noqa: PLC0415

        translate = _flags.set_onnx_exporting_flag(_translate)
        return translate(graph, table, (list(inputs), list(outputs)), opset)
    except (*_OTHER_INTERNALS, RuntimeError, ValueError):
        return None


@functools.cache
def whole_table(opset: int) -> Any:
    """The table of ONNXRegistry.from_torchlib, which parses the source of each translation for a
    name that it does not use. None if this version of torch has other internals."""
    try:
        from torch.onnx._internal.exporter import _registration  # noqa: PLC0415

        table = _empty_table(opset)
        for name, translation in _torchlib().items():
            target = None if name.startswith("internal::") else _registration._get_overload(name)
            if target is not None:
                _add(table, target, translation)
        table._cleanup_registry_based_on_opset_version()
        return table
    except _OTHER_INTERNALS:
        return None


def _operators(graph: torch.export.ExportedProgram) -> list[Any] | None:
    """The operators of the graph; None if the graph needs a decomposition because it mutates
    tensors or calls composite or Python functions."""
    from torch._export.utils import _is_cia_op, _is_preservable_cia_op  # noqa: PLC0415

    signature = graph.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        return None
    operators = []
    for node in graph.graph.nodes:
        if node.op in ("placeholder", "output"):
            continue
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or target._schema.is_mutable:
            return None
        if _is_cia_op(target) and not _is_preservable_cia_op(target):
            return None
        operators.append(target)
    return operators


def _small_table(operators: Sequence[Any], opset: int) -> Any:
    """The translations of `operators`; None if one of them has none."""
    table = _empty_table(opset)
    translations = _torchlib()
    for target in dict.fromkeys(operators):
        if target.name() in translations:
            _add(table, target, translations[target.name()])
    table._cleanup_registry_based_on_opset_version()
    return table if all(map(table.is_registered, operators)) else None


def _empty_table(opset: int) -> Any:
    """A table with torch's own translations, which take precedence over those of torchlib."""
    from torch.onnx._internal.exporter import _registration  # noqa: PLC0415
    from torch.onnx._internal.exporter._torchlib import _torchlib_registry  # noqa: PLC0415

    table = _registration.ONNXRegistry()
    table._opset_version = opset
    for meta in _torchlib_registry.get_torchlib_ops():
        table._register(meta.fx_target, meta)
    return table


def _torchlib() -> Any:
    """Translations by name of the operator."""
    from onnxscript.function_libs.torch_lib import ops, registration  # noqa: PLC0415

    del ops  # importing it fills the registry
    return registration.default_registry


def _add(table: Any, target: Any, translation: Any) -> None:
    from torch.onnx._internal.exporter import _registration  # noqa: PLC0415

    for functions, is_complex in ((translation.overloads, False), (translation.complex, True)):
        for function in functions:
            meta = _registration.OnnxDecompMeta(
                onnx_function=function, fx_target=target, signature=None, is_complex=is_complex
            )
            table._register(target, meta)


def _translate(
    graph: torch.export.ExportedProgram,
    table: Any,
    names: tuple[list[str], list[str]],
    opset: int,
) -> torch.onnx.ONNXProgram:
    """The remaining steps of torch.onnx._internal.exporter._core.export."""
    from torch.fx.experimental import _config  # noqa: PLC0415
    from torch.onnx._internal import _lazy_import  # noqa: PLC0415
    from torch.onnx._internal.exporter import _core, _fx_passes, _ir_passes  # noqa: PLC0415

    symbolic: Any = _config
    scripts: Any = _lazy_import
    with symbolic.patch(backed_size_oblivious=True):
        _fx_passes.insert_type_promotion_nodes(graph.graph_module)
        graph._graph_module = _fx_passes.remove_assertion_nodes(graph.graph_module)
    program = _core._exported_program_to_onnx_program(graph, registry=table)
    program.model = scripts.onnxscript_apis.convert_version(program.model, opset)
    program.optimize()
    _ir_passes.rename_inputs(program.model, names[0])
    _ir_passes.rename_outputs(program.model, names[1])
    return program
