"""Publish: a trained model becomes a manifest, files and evidence, on the owner's machine.

Nothing here connects to a server. The SDK sends the publication, at once or later from the
directory that holds it (a job's `publication/`).
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.models import Evidence, File, Manifest, Task, Variant
from maas.domain.signature import Signature
from maas.lifecycle.build import Built
from maas.lifecycle.conversion.onnx_files import signature_of_onnx
from maas.lifecycle.data.dataset import Dataset
from maas.lifecycle.evaluate import Evaluation, EvaluationRequest, evaluate
from maas.lifecycle.measure import (
    BACKGROUND_ROWS,
    explained_examples,
    predictions_of,
    sha256_of,
)
from maas.lifecycle.predictions import NAME as PREDICTIONS
from maas.lifecycle.predictions import write_predictions
from maas.lifecycle.prepared_publication import PreparedPublication
from maas.lifecycle.publish_inputs import (
    PublishOptions,
    checked_onnx,
    convert,
    evaluation_rows,
    example_row,
    labelled,
    task_of_options,
)
from maas.lifecycle.recipe import EvaluateStep
from maas.lifecycle.report import ExplainedRow, Report, render_report

Array = npt.NDArray[Any]

BACKGROUND_NUMBERS = 4096


def prepare(model: Any, options: PublishOptions, workdir: Path) -> PreparedPublication:
    """A publication of `model`: a trained nn.Module, a fitted scikit-learn estimator, a Built, or
    the path of an ONNX file. Writes files to `workdir`.

    Raises UnsafeArtifact for a pickle-based file, InvalidInput for everything else that cannot
    be published, InferenceFailed if the converted model answers differently.
    """
    options = options.normalized()
    if isinstance(model, Built):
        return prepare_built(model, options, workdir)
    rows, labels = evaluation_rows(options.evaluation)
    if isinstance(model, str | Path):
        path = checked_onnx(Path(model))
        example = example_row(path, options.example, rows)
        signature, task, parity = signature_of_onnx(path, example), None, None
    else:
        converted = convert(model, options, rows, workdir / "model.onnx")
        path, parity, task = converted.path, converted.parity, converted.task
        signature = converted.signature
    if rows is not None:
        metadata = {**_background(signature, rows), **options.metadata}
        options = replace(options, metadata=metadata)
    signature = labelled(signature, options)
    task = task_of_options(options, task, labels)
    evidence: list[Evidence] = []
    if parity is not None:
        how = {"rows": parity.get("rows"), "method": "original and ONNX on the same rows"}
        evidence.append(Evidence("parity", dict(parity), how, variant="onnx"))
    evaluation = options.evaluation if isinstance(options.evaluation, Evaluation) else None
    if rows is not None and labels is not None:
        evaluation = _evaluation(path, signature, task, (rows, labels), options.class_names)
    manifest = _manifest(options, task, signature, path)
    examples = explained_examples(path, signature, rows, 1) if rows is not None else ()
    report = Report(
        manifest, evaluation=evaluation, parity=parity, examples=examples, created_at=time.time()
    )
    return _publication(manifest, path, evidence, report, workdir)


def prepare_built(
    built: Built,
    options: PublishOptions,
    workdir: Path,
    explained_rows: int = 0,
    test_rows: Array | None = None,
) -> PreparedPublication:
    """A publication of the result of `build`, evaluated on its held-out test rows."""
    evaluation = options.evaluation
    if not isinstance(evaluation, Evaluation) and len(built.test.y_true):
        evaluation = evaluate_built(built)
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
        evaluation=evaluation,
        training=built.training,
        parity=built.parity,
        examples=examples,
        created_at=time.time(),
    )
    return _publication(manifest, built.onnx_path, list(built.evidence), report, workdir)


def _background(signature: Signature, rows: Array) -> dict[str, Any]:
    """Metadata with a few rows, the default background of an explanation."""
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
    """The metrics of a build on its held-out test rows."""
    evaluation = evaluate(
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
    return _with_digest(evaluation, digest) if digest else evaluation


def _with_digest(evaluation: Evaluation, digest: str) -> Evaluation:
    return replace(evaluation, how={**evaluation.how, "data_digest": digest})


def evaluate_publication(
    prepared: PreparedPublication, test: Dataset, step: EvaluateStep, workdir: Path
) -> tuple[Evaluation, PreparedPublication]:
    """The metrics of a finished build on `test`, and the publication with them instead of its
    previous metrics. The manifest is unchanged, so the version stays the same."""
    path, manifest = prepared.files[0][0], prepared.manifest
    data = (test.x, test.y)
    request = predictions_of(path, manifest.signature, manifest.task, data, test.class_names)
    request = replace(request, slices=test.slices, seed=step.seed, resamples=step.resamples)
    evaluation = _with_digest(evaluate(request), test.digest)
    of_build = {e.kind: e for e in prepared.evidence if e.kind in ("parity", "training")}
    report = Report(
        manifest,
        evaluation=evaluation,
        training=of_build["training"].values if "training" in of_build else None,
        parity=of_build["parity"].values if "parity" in of_build else None,
        examples=explained_examples(path, manifest.signature, test.x, step.explained_rows),
        created_at=time.time(),
    )
    return evaluation, _publication(manifest, path, list(of_build.values()), report, workdir)


def _publication(
    manifest: Manifest, path: Path, evidence: list[Evidence], report: Report, workdir: Path
) -> PreparedPublication:
    """Adds metrics and the report to the evidence and collects the files."""
    model = manifest.variants[0].files[0]
    files = [(path, model)]
    now = time.time()
    if report.evaluation is not None:
        metrics = replace(report.evaluation.evidence(), variant="onnx")
        if report.evaluation.request is not None:
            predictions = write_predictions(report.evaluation.request, workdir / PREDICTIONS)
            file = _file(predictions)
            metrics = replace(metrics, file=file)
            files.append((predictions, file))
        evidence.append(metrics)
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


def _evaluation(
    path: Path,
    signature: Signature,
    task: Task,
    data: tuple[Array, Array],
    class_names: tuple[str, ...],
) -> Evaluation | None:
    """The metrics of the ONNX file, which is what is served; None for a task without metrics."""
    if task is Task.OTHER:
        return None
    return evaluate(predictions_of(path, signature, task, data, class_names))
