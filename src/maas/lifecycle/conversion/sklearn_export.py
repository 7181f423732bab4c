"""Export of a scikit-learn estimator or Pipeline to one ONNX file with the outputs served."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput

OPSET = 18
OPSET_ML = 3
"""Fixed, so that different versions of skl2onnx write the same file."""


def export_sklearn(
    estimator: Any, features: int, path: Path, input_name: str, output_names: tuple[str, ...]
) -> None:
    """Writes a fitted estimator; `output_names` is (value,), (label,) or (label, probabilities).

    Raises InvalidInput if a step has no ONNX form.
    """
    import skl2onnx  # noqa: PLC0415  (1 s)
    from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415
    from skl2onnx.common.exceptions import (  # noqa: PLC0415
        MissingConverter,
        MissingShapeCalculator,
    )

    is_classifier = "label" in output_names
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside scikit-learn
            model = skl2onnx.convert_sklearn(
                estimator,
                name="model",
                initial_types=[(input_name, FloatTensorType([None, features]))],
                options={"zipmap": False} if "probabilities" in output_names else None,
                target_opset={"": OPSET, "ai.onnx.ml": OPSET_ML},
            )
    except (MissingConverter, MissingShapeCalculator) as error:
        text = " ".join(str(error).split())[:300]
        raise InvalidInput(f"skl2onnx has no ONNX form for a step: {text}", field="model") from None
    except (RuntimeError, ValueError, TypeError, NotImplementedError, NameError) as error:
        text = " ".join(str(error).partition(" and attributes=")[0].split())[:300]
        raise InvalidInput(
            f"skl2onnx cannot convert {type(estimator).__name__}: {text}", field="model"
        ) from error
    graph = model.graph
    del graph.output[len(output_names) :]
    if is_classifier:
        _index_labels(model, graph.output[0], np.asarray(estimator.classes_))
    for output, name in zip(graph.output, output_names, strict=True):
        _rename(graph, output.name, name)
        output.type.tensor_type.shape.dim[0].dim_param = "batch"
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    path.write_bytes(model.SerializeToString(deterministic=True))


def class_names(classes: npt.NDArray[Any]) -> tuple[str, ...]:
    """The names of an estimator's `classes_`, in the order of their index."""
    return tuple(str(value) for value in classes)


def _index_labels(model: Any, output: Any, classes: npt.NDArray[Any]) -> None:
    """Replaces the labels that the estimator was trained with by their indices."""
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    is_text = output.type.tensor_type.elem_type == TensorProto.STRING
    if not is_text and np.array_equal(classes, np.arange(len(classes))):
        return
    label, index = output.name, f"{output.name}_index"
    if is_text:
        encoder = helper.make_node(
            "LabelEncoder",
            [label],
            [index],
            domain="ai.onnx.ml",
            keys_strings=[str(c) for c in classes],
            values_int64s=list(range(len(classes))),
            default_int64=-1,
        )
        model.graph.node.append(encoder)
        # Text to INT64 needs version 2; a model whose own nodes need less may declare 1.
        domains = [d for d in model.opset_import if d.domain == "ai.onnx.ml"]
        for domain in domains or [model.opset_import.add(domain="ai.onnx.ml")]:
            domain.version = OPSET_ML
    else:
        labels = numpy_helper.from_array(classes.astype(np.int64)[None], "classes")
        column = numpy_helper.from_array(np.array([-1, 1], dtype=np.int64), "column")
        model.graph.initializer.extend([labels, column])
        model.graph.node.extend(
            [
                helper.make_node("Reshape", [label, "column"], ["label_column"]),
                helper.make_node("Equal", ["label_column", "classes"], ["label_is"]),
                helper.make_node("Cast", ["label_is"], ["label_hot"], to=TensorProto.INT64),
                helper.make_node("ArgMax", ["label_hot"], [index], axis=1, keepdims=0),
            ]
        )
    output.name = index
    output.type.tensor_type.elem_type = TensorProto.INT64


def _rename(graph: Any, old: str, new: str) -> None:
    if old == new:
        return
    for node in graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name == new:
                    names[at] = f"{new}_inner"
                elif name == old:
                    names[at] = new
    for output in graph.output:
        if output.name == old:
            output.name = new
