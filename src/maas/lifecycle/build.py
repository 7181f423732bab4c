"""Build: a spec becomes a trained model, its ONNX form, its signature and its evidence.

spec ─ data ─ split ─┬─ families ─ training ─ torch_export ─┬─ parity ─ Built
                     └─ estimators ──────── sklearn_export ─┘
"""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maas.domain.jobs import Progress
from maas.domain.machine import library_versions
from maas.domain.models import Evidence, Task
from maas.domain.signature import Signature
from maas.lifecycle.conversion.convert import (
    Converted,
    TensorNames,
    named,
    sklearn_to_onnx,
    torch_to_onnx,
)
from maas.lifecycle.conversion.onnx_files import open_session, run_session
from maas.lifecycle.data.dataset import Dataset, Split, load_dataset, split
from maas.lifecycle.data.entrypoints import entry_digest, load_entry
from maas.lifecycle.data.spec import BuildCancelled, BuildSpec

__all__ = ["BuildCancelled", "BuildSpec", "Built", "Predictions", "build"]

Array = npt.NDArray[Any]

BACKGROUND_ROWS = 100
PREDICTION_ROWS = 256
PARITY_ROWS = 256


@dataclass(frozen=True)
class Predictions:
    """The model's predictions on held-out rows."""

    y_true: Array
    """[n]; INT64 class index, or FP64 value in the target's units"""
    y_pred: Array
    """[n], like y_true"""
    y_score: npt.NDArray[np.float64] | None = None
    """[n, classes], each row sums to 1; None for a regression"""
    slices: dict[str, Array] = field(default_factory=dict)
    """By slice name: [n] of str"""


@dataclass(frozen=True)
class Built:
    """A built model with everything that its publication and evaluation need."""

    model: Any
    """The served nn.Module (raw inputs in, named outputs out) or the fitted estimator."""
    task: Task
    signature: Signature
    onnx_path: Path
    parity: dict[str, Any]
    """{max_abs_diff, max_rel_diff, rows, tolerance, passed}: ONNX against the original."""
    training: dict[str, Any]
    """{seconds, seed, rows, parameters}; a network's also {curves: {loss, val_loss,
    learning_rate: one number per epoch}, loss, epochs, best_epoch, stopped, weights}."""
    test: Predictions
    """Predictions of the ONNX file, which is what is served; no rows if split.test is 0."""
    class_names: tuple[str, ...]
    background: npt.NDArray[np.float32]
    """Up to 100 training rows, for explanations."""
    metadata: dict[str, Any]
    """Metadata of the manifest: `data_digest`, seeds, hyperparameters, library versions. The same
    build has the same metadata every time."""
    evidence: tuple[Evidence, ...]
    """Evidence of kinds `parity` and `training`."""


def build(
    spec: BuildSpec,
    *,
    workdir: Path,
    report: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Built:
    """Trains and exports; resumes from a checkpoint of the same spec in `workdir`.

    Raises InvalidInput for a spec or data that cannot be built, BuildCancelled (which leaves a
    checkpoint), and InferenceFailed if the ONNX form answers differently.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    data = load_dataset(spec.data)
    parts = split(data, spec.split)
    if cancelled():
        raise BuildCancelled("cancelled before the training began")
    names = TensorNames(
        input=spec.model.input,
        output=spec.model.output,
        features=data.feature_names,
        classes=data.class_names,
        input_units=_common_unit(data),
        output_units=data.units.get(data.target_name),
    )
    # Parity is checked on held-out rows unless there are too few of them.
    parity_data = parts.test if len(parts.test) > 1 else parts.train
    rows = parity_data.x[:PARITY_ROWS]
    path = workdir / "model.onnx"
    if spec.model.estimator:
        model, training = _fit(spec, parts, report)
        converted = sklearn_to_onnx(model, rows.reshape(len(rows), -1), path, names)
    else:
        model, training = _train(spec, parts, workdir, report, cancelled)
        outputs = ("label", "probabilities") if data.class_names else (names.output,)
        converted = named(torch_to_onnx(model, [rows], path, [names.input], outputs), names)
    return _built(spec, data, parts, model, converted, training)


def _train(
    spec: BuildSpec,
    parts: Split,
    workdir: Path,
    report: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> tuple[Any, dict[str, Any]]:
    from maas.lifecycle.training.trainer import Trainer  # noqa: PLC0415  (torch: 2 s)

    trainer = Trainer(spec.model, spec.training, parts, workdir / "checkpoint.pt")
    fingerprint = fingerprint_of(spec, parts)
    trained = trainer.run(fingerprint, report, cancelled)
    return trained.model, trained.summary


def fingerprint_of(spec: BuildSpec, parts: Split) -> str:
    """Digest that identifies a checkpoint: of the spec, the rows, the code and torch's version."""
    import torch  # noqa: PLC0415  (2 s)

    entry = None
    if spec.model.module:
        entry = load_entry(spec.model.module, spec.model.directory, "model.module")
    identity = [spec.digest, parts.train.digest, parts.validation.digest, torch.__version__]
    return hashlib.sha256("\n".join([*identity, entry_digest(entry)]).encode()).hexdigest()


def _fit(
    spec: BuildSpec, parts: Split, report: Callable[[Progress], None]
) -> tuple[Any, dict[str, Any]]:
    from maas.lifecycle.training.estimators import fit_estimator, make_estimator  # noqa: PLC0415

    estimator = make_estimator(spec.model, parts.train.task, spec.training.seed)
    report(Progress(0, 1, f"fitting {type(estimator).__name__} on {len(parts.train)} rows"))
    began = time.monotonic()
    fitted, warned = fit_estimator(estimator, parts.train)
    seconds = round(time.monotonic() - began, 3)
    report(Progress(1, 1, f"fitted in {seconds:.1f} s", eta_seconds=0.0))
    return fitted, {"seconds": seconds, "warnings": warned}


def _built(
    spec: BuildSpec,
    data: Dataset,
    parts: Split,
    model: Any,
    converted: Converted,
    training: dict[str, Any],
) -> Built:
    metadata = _metadata(spec, data, parts)
    rows = metadata["rows"]
    training = {
        **training,
        "seed": spec.training.seed,
        "rows": rows,
        "parameters": {key: metadata["build"][key] for key in ("model", "training")},
    }
    how = {
        "data_digest": data.digest,
        "seed": spec.training.seed,
        "rows": rows,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "libraries": metadata["libraries"],
    }
    parity_how = {
        **how,
        "rows": converted.parity["rows"],
        "method": "original and ONNX, batches 1, 2, n",
    }
    return Built(
        model=model,
        task=data.task,
        signature=_described(converted.signature, data),
        onnx_path=converted.path,
        parity=converted.parity,
        training=training,
        test=_predictions(converted.path, converted.signature, parts.test),
        class_names=data.class_names,
        background=_model_rows(parts.train.x[:BACKGROUND_ROWS], converted.signature),
        metadata=metadata,
        evidence=(
            Evidence("parity", converted.parity, parity_how, variant="onnx"),
            Evidence("training", training, how, variant="onnx"),
        ),
    )


def _metadata(spec: BuildSpec, data: Dataset, parts: Split) -> dict[str, Any]:
    """What the model was built from, without times and paths, which differ in equal builds."""
    raw = spec.to_dict()
    for table in ("data", "model"):
        del raw[table]["directory"]
    rows = {
        "train": len(parts.train),
        "validation": len(parts.validation),
        "test": len(parts.test),
    }
    libraries = ("torch", "onnx") if not spec.model.estimator else ("scikit-learn", "skl2onnx")
    return {
        "data": data.name,
        "data_digest": data.digest,
        "rows": rows,
        "build": raw,
        "libraries": library_versions("openmaas", "numpy", *libraries),
    }


def _model_rows(rows: Array, signature: Signature) -> Array:
    """The rows in the model's input shape: an estimator takes flattened images."""
    return rows.reshape(len(rows), *signature.inputs[0].shape)


def _predictions(path: Path, signature: Signature, test: Dataset) -> Predictions:
    session = open_session(path)
    x = _model_rows(test.x, signature)
    batches: dict[str, list[Array]] = {spec.name: [] for spec in signature.outputs}
    for start in range(0, len(x), PREDICTION_ROWS):
        batch = {signature.inputs[0].name: x[start : start + PREDICTION_ROWS]}
        for name, values in run_session(session, batch).items():
            batches[name].append(values)
    answers = {}
    for spec in signature.outputs:
        empty = np.zeros((0, *spec.shape), spec.dtype.numpy)
        parts = batches[spec.name]
        answers[spec.name] = np.concatenate(parts) if parts else empty
    if test.task is Task.REGRESSION:
        predicted = next(iter(answers.values())).reshape(len(test)).astype(np.float64)
        return Predictions(test.y.astype(np.float64), predicted, None, test.slices)
    scores = answers.get("probabilities")
    return Predictions(
        test.y,
        answers["label"],
        None if scores is None else scores.astype(np.float64),
        test.slices,
    )


def _common_unit(data: Dataset) -> str | None:
    """The unit of the input tensor if all its features have the same one."""
    units = {data.units.get(name) for name in data.feature_names}
    return units.pop() if len(units) == 1 else None


def _described(signature: Signature, data: Dataset) -> Signature:
    """`signature` with the units in the input's description if the features' units differ."""
    units = [f"{name} in {data.units[name]}" for name in data.feature_names if name in data.units]
    if not units or signature.inputs[0].units:
        return signature
    return replace(signature, inputs=(replace(signature.inputs[0], description=", ".join(units)),))
