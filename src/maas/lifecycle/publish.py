"""Publish: from a trained model on its owner's side to a manifest, files and evidence.

Nothing here talks to a server. What comes out is sent by the SDK, or kept in a directory until
it is (a job's `publication/`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.errors import InvalidInput, UnsafeArtifact
from maas.domain.models import Evidence, File, Manifest, Task, Variant
from maas.domain.signature import Signature, TensorSpec
from maas.lifecycle.build import Built
from maas.lifecycle.conversion.convert import (
    TensorNames,
    signature_of_onnx,
    sklearn_to_onnx,
    torch_to_onnx,
)
from maas.lifecycle.data.dataset import Dataset
from maas.lifecycle.evaluate import Evaluation, EvaluationRequest, evaluate
from maas.lifecycle.measure import (
    BACKGROUND_ROWS,
    OnnxModel,
    explained_examples,
    predictions_of,
    sha256_of,
)
from maas.lifecycle.predictions import NAME as PREDICTIONS
from maas.lifecycle.predictions import write_predictions
from maas.lifecycle.publication import PreparedPublication
from maas.lifecycle.recipe import EvaluateStep
from maas.lifecycle.report import ExplainedRow, Report, render_report

Array = npt.NDArray[Any]

UNSAFE = (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".bin", ".ckpt", ".npy", ".h5", ".keras")
PARITY_ROWS = 64
BACKGROUND_NUMBERS = 4096


@dataclass(frozen=True)
class PublishOptions:
    """What `client.publish` was told besides the model."""

    name: str
    example: Any = None
    evaluation: Any = None
    """(X, y), or an Evaluation."""
    task: str | None = None
    feature_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    description: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


def prepare(model: Any, options: PublishOptions, workdir: Path) -> PreparedPublication:
    """A publication of `model`: a trained nn.Module, a fitted scikit-learn estimator, a Built, or
    the path of an ONNX file. Writes files to `workdir`.

    Raises UnsafeArtifact for a pickle-based file, InvalidInput for everything else that cannot
    be published, InferenceFailed if the converted model answers differently.
    """
    options = replace(
        options,
        feature_names=tuple(str(name) for name in options.feature_names),
        class_names=tuple(str(name) for name in options.class_names),
        metadata={str(k): _json_value(v, f"metadata.{k}") for k, v in options.metadata.items()},
    )
    if isinstance(model, Built):
        return prepare_built(model, options, workdir)
    rows, labels = _evaluation_rows(options.evaluation)
    if isinstance(model, str | Path):
        path = _checked_onnx(Path(model))
        example = _example_row(path, options.example, rows)
        signature, task, parity = signature_of_onnx(path, example), None, None
    else:
        converted = _convert(model, options, rows, workdir / "model.onnx")
        path, parity, task = converted.path, converted.parity, converted.task
        signature = converted.signature
    if rows is not None:
        metadata = {**_background(signature, rows), **options.metadata}
        options = replace(options, metadata=metadata)
    signature = _labelled(signature, options)
    found_task = _task(options, task, labels)
    evidence: list[Evidence] = []
    if parity is not None:
        how = {"rows": parity.get("rows"), "method": "original and ONNX on the same rows"}
        evidence.append(Evidence("parity", dict(parity), how, variant="onnx"))
    measured = options.evaluation if isinstance(options.evaluation, Evaluation) else None
    if rows is not None and labels is not None:
        measured = _measured(path, signature, found_task, (rows, labels), options)
    manifest = _manifest(options, found_task, signature, path)
    examples = explained_examples(path, signature, rows, 1) if rows is not None else ()
    report = Report(
        manifest, evaluation=measured, parity=parity, examples=examples, created_at=time.time()
    )
    return _publication(manifest, path, evidence, report, workdir)


def _json_value(value: Any, where: str) -> Any:
    """`value` as JSON has it; NumPy's scalars and arrays are taken for what they hold."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _json_value(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(v, f"{where}[{at}]") for at, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{where} must be finite; got {value}", field=where)
    if value is None or isinstance(value, str | int | float):
        return value
    raise InvalidInput(
        f"{where} must be text, a number, a list or a mapping of these; got {type(value).__name__}",
        field=where,
    )


def prepare_built(
    built: Built,
    options: PublishOptions,
    workdir: Path,
    explained_rows: int = 0,
    test_rows: Array | None = None,
) -> PreparedPublication:
    """A publication of what `build` returned; it is evaluated on its own test rows."""
    measured = options.evaluation
    if not isinstance(measured, Evaluation) and len(built.test.y_true):
        measured = evaluate_built(built)
    signature = built.signature
    background = _background(built.signature, built.background)
    metadata = {**built.metadata, **background, **options.metadata}
    options = replace(options, metadata=metadata)
    manifest = _manifest(options, built.task, signature, built.onnx_path)
    examples: tuple[ExplainedRow, ...] = ()
    if explained_rows and test_rows is not None and len(test_rows):
        examples = explained_examples(
            built.onnx_path, signature, test_rows, explained_rows, built.background
        )
    report = Report(
        manifest,
        evaluation=measured,
        training=built.training,
        parity=built.parity,
        examples=examples,
        created_at=time.time(),
    )
    return _publication(manifest, built.onnx_path, list(built.evidence), report, workdir)


def _background(signature: Signature, rows: Array) -> dict[str, Any]:
    """A few rows in the manifest: what an explanation compares a row with by default."""
    first = signature.inputs[0]
    if len(signature.inputs) > 1 or not first.datatype.startswith("FP"):
        return {}
    few = min(BACKGROUND_ROWS, BACKGROUND_NUMBERS // max(1, math.prod(rows.shape[1:])))
    rows = np.asarray(rows[:few], dtype=np.float64)
    if not len(rows) or not np.isfinite(rows).all():
        return {}
    short = np.array([float(f"{v:.6g}") for v in rows.ravel()]).reshape(rows.shape)
    return {"background": {first.name: short.tolist()}}


def evaluate_built(built: Built, seed: int = 0, resamples: int = 1000) -> Evaluation:
    """The metrics of a build on its test rows, which it was not trained on."""
    found = evaluate(
        EvaluationRequest(
            task=built.task,
            y_true=built.test.y_true,
            y_pred=built.test.y_pred,
            y_score=built.test.y_score,
            class_names=built.class_names,
            slices=built.test.slices,
            units=built.signature.outputs[0].units or "",
            seed=seed,
            resamples=resamples,
        )
    )
    digest = built.metadata.get("data_digest")
    return replace(found, how={**found.how, "data_digest": digest} if digest else found.how)


def evaluate_publication(
    prepared: PreparedPublication, test: Dataset, step: EvaluateStep, workdir: Path
) -> tuple[Evaluation, PreparedPublication]:
    """The metrics of a finished build on `test`, and the publication with them instead of its
    former ones. The manifest stays, so it is the same version."""
    path, manifest = prepared.files[0][0], prepared.manifest
    data = (test.x, test.y)
    request = predictions_of(path, manifest.signature, manifest.task, data, test.class_names)
    found = evaluate(replace(request, slices=test.slices, seed=step.seed, resamples=step.resamples))
    found = replace(found, how={**found.how, "data_digest": test.digest})
    kept = {e.kind: e for e in prepared.evidence if e.kind in ("parity", "training")}
    report = Report(
        manifest,
        evaluation=found,
        training=kept["training"].values if "training" in kept else None,
        parity=kept["parity"].values if "parity" in kept else None,
        examples=explained_examples(path, manifest.signature, test.x, step.explained_rows),
        created_at=time.time(),
    )
    return found, _publication(manifest, path, list(kept.values()), report, workdir)


def _publication(
    manifest: Manifest, path: Path, evidence: list[Evidence], report: Report, workdir: Path
) -> PreparedPublication:
    """Adds metrics and the report to the evidence and gathers the files."""
    model = manifest.variants[0].files[0]
    files = [(path, model)]
    now = time.time()
    if report.evaluation is not None:
        measured = replace(report.evaluation.evidence(), variant="onnx")
        if report.evaluation.request is not None:
            said = write_predictions(report.evaluation.request, workdir / PREDICTIONS)
            measured = replace(measured, file=_file(said))
            files.append((said, _file(said)))
        evidence.append(measured)
    if evidence or report.examples:
        page = workdir / "report.html"
        page.write_text(render_report(report), encoding="utf-8")
        file = _file(page)
        files.append((page, file))
        how = {"manifest": manifest.digest, "from": [e.kind for e in evidence]}
        evidence.append(Evidence("report", {"title": manifest.model}, how, file=file))
    stamped = tuple(replace(e, created_at=e.created_at or now) for e in evidence)
    return PreparedPublication(manifest, tuple(files), stamped)


def _file(path: Path) -> File:
    return File(path.name, sha256_of(path), path.stat().st_size)


def _manifest(options: PublishOptions, task: Task, signature: Signature, path: Path) -> Manifest:
    file = replace(_file(path), name="model.onnx")
    return Manifest(
        model=options.name,
        task=task,
        signature=signature,
        variants=(Variant("onnx", "onnx", (file,)),),
        description=options.description,
        metadata=options.metadata,
    )


def _checked_onnx(path: Path) -> Path:
    if path.suffix.lower() in UNSAFE:
        raise UnsafeArtifact(
            f"{path.name} can run code when it is loaded, so it is not published as it is. Load "
            "it yourself, where you trust it, and pass the model: client.publish(model, "
            "name=…, example=…) converts it to ONNX on your side",
            field="model",
        )
    if path.suffix.lower() != ".onnx":
        raise InvalidInput(
            f"model must be an nn.Module, a scikit-learn estimator, a Built or the path of an "
            f".onnx file; got {path.name!r}",
            field="model",
        )
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}", field="model")
    return path


def _convert(model: Any, options: PublishOptions, rows: Array | None, path: Path) -> Any:
    """The Converted of a module or an estimator."""
    if hasattr(model, "forward") and hasattr(model, "state_dict"):
        inputs = _example_inputs(options.example, rows)
        return torch_to_onnx(
            model, list(inputs.values()), path, list(inputs), list(options.output_names)
        )
    if hasattr(model, "predict") and hasattr(model, "get_params"):
        (name, example), *more = _example_inputs(options.example, rows).items()
        if more:
            raise InvalidInput("a scikit-learn estimator has one input", field="example")
        names = TensorNames(
            input=name,
            output=options.output_names[0] if options.output_names else TensorNames.output,
            features=options.feature_names,
            classes=options.class_names,
        )
        return sklearn_to_onnx(model, example.reshape(-1, example.shape[-1]), path, names)
    raise InvalidInput(
        "model must be an nn.Module, a fitted scikit-learn estimator, a Built or the path of an "
        f".onnx file; got {type(model).__name__}",
        field="model",
    )


def _example_inputs(example: Any, rows: Array | None) -> dict[str, Array]:
    """Named batches [n, …] to convert with: the evaluation's rows if there are any, else the
    example, which is one row if it has one dimension and a batch of rows if it has more."""
    if isinstance(example, Mapping):
        found = {str(name): _batch(value) for name, value in example.items()}
        if rows is not None and len(found) == 1:
            return dict.fromkeys(found, rows[:PARITY_ROWS])
        return found
    if rows is not None:
        return {"x": rows[:PARITY_ROWS]}
    if example is None:
        raise InvalidInput(
            "an example row is needed to convert the model, for example example=[1, 2, 3] or "
            "example={'x': [1, 2, 3]}",
            field="example",
        )
    return {"x": _batch(example)}


def _batch(value: Any) -> Array:
    """[n, …]: lists become FP32, arrays keep their type except that FP64 becomes FP32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = value if isinstance(value, np.ndarray) else np.asarray(value, dtype=np.float32)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    return array[None] if array.ndim <= 1 else array


def _example_row(path: Path, example: Any, rows: Array | None) -> dict[str, Any] | None:
    """One JSON row per input for an ONNX file's signature; None: let its maker choose one."""
    names = OnnxModel(path).inputs
    if isinstance(example, Mapping):
        return {str(k): v.tolist() if hasattr(v, "tolist") else v for k, v in example.items()}
    if len(names) == 1:
        if example is not None:
            return {names[0]: example.tolist() if hasattr(example, "tolist") else example}
        if rows is not None:
            return {names[0]: rows[0].tolist()}
    elif example is not None:
        raise InvalidInput(f"name the example's inputs: {', '.join(names)}", field="example")
    return None


def _evaluation_rows(evaluation: Any) -> tuple[Array | None, Array | None]:
    if evaluation is None or isinstance(evaluation, Evaluation):
        return None, None
    if not isinstance(evaluation, Sequence) or len(evaluation) != 2:
        raise InvalidInput("evaluation must be (X, y) or an Evaluation", field="evaluation")
    x, y = evaluation
    rows = _batch(x.to_numpy() if hasattr(x, "to_numpy") else x)
    labels = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if len(rows) != len(labels):
        raise InvalidInput(
            f"evaluation: X has {len(rows)} rows and y has {len(labels)}", field="evaluation"
        )
    return rows, labels


def _task(options: PublishOptions, converted: Task | None, labels: Array | None) -> Task:
    if options.task is not None:
        try:
            return Task(options.task)
        except ValueError:
            raise InvalidInput(
                f"task must be one of {', '.join(Task)}; got {options.task!r}", field="task"
            ) from None
    if converted is not None and converted is not Task.OTHER:
        return converted
    if options.class_names:
        return Task.BINARY if len(options.class_names) == 2 else Task.MULTICLASS
    if labels is None:
        return Task.OTHER
    if labels.dtype.kind == "f":
        return Task.REGRESSION
    return Task.BINARY if len(np.unique(labels)) <= 2 else Task.MULTICLASS


def _labelled(signature: Signature, options: PublishOptions) -> Signature:
    """With feature and class names on the tensors whose last dimension they fit."""

    def named(spec: TensorSpec, names: tuple[str, ...]) -> TensorSpec:
        fits = names and spec.shape and spec.shape[-1] == len(names) and not spec.labels
        return replace(spec, labels=names) if fits else spec

    return replace(
        signature,
        inputs=tuple(named(s, options.feature_names) for s in signature.inputs),
        outputs=tuple(named(s, options.class_names) for s in signature.outputs),
    )


def _measured(
    path: Path,
    signature: Signature,
    task: Task,
    data: tuple[Array, Array],
    options: PublishOptions,
) -> Evaluation | None:
    """The metrics of the ONNX file, which is what will be served; None for a task without."""
    if task is Task.OTHER:
        return None
    found = predictions_of(path, signature, task, data, options.class_names)
    return evaluate(found)
