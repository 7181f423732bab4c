"""Subjects of versions: from the build on this machine, or from rows that the owner provides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maas.domain.errors import InvalidInput, MaasError
from maas.domain.jobs import JobState, Progress
from maas.domain.models import Manifest
from maas.lifecycle.data.dataset import load_dataset, split
from maas.lifecycle.job_folder import JobFolder
from maas.lifecycle.measure import named_rows
from maas.lifecycle.optimize.results import Candidate, EvaluationRows
from maas.lifecycle.optimize.subject import (
    Subject,
    Training,
    calibration_rows,
    read_rows,
    subject_of_rows,
)
from maas.lifecycle.prepared_publication import PreparedPublication
from maas.lifecycle.recipe import Recipe

ORIGINAL = "model.onnx"


def find_build(jobs_dir: Path, digest: str) -> JobFolder | None:
    """The newest finished build on this machine whose publication has this digest, or None."""
    for folder in JobFolder.all(jobs_dir):
        if folder.spec().kind != "build" or folder.job().state is not JobState.SUCCEEDED:
            continue
        try:
            if PreparedPublication.load(folder.publication).manifest.digest == digest:
                return folder
        except MaasError:
            continue
    return None


def original_of(manifest: Manifest, file: Path) -> Candidate:
    """The version's first variant, whose only file is `file`.

    Raises InvalidInput if the variant is not a single ONNX file.
    """
    variant = manifest.variants[0]
    if variant.runtime != "onnx" or len(variant.files) != 1:
        raise InvalidInput(
            f"the first variant of {manifest.model} must be one ONNX file; {variant.name} has "
            f"{len(variant.files)} files for {variant.runtime}",
            field="model",
        )
    return Candidate(
        name=variant.name,
        runtime=variant.runtime,
        files={variant.files[0].name: file},
        options=variant.options,
        how={"by": "published"},
    )


def subject_of_data(manifest: Manifest, original: Path, data: Path) -> Subject:
    """Subject for a version that was not built on this machine, with rows of an NPZ file."""
    names = next((s.labels for s in manifest.signature.outputs if s.labels), ())
    return subject_of_rows(
        original_of(manifest, original),
        manifest.signature,
        manifest.task,
        read_rows(data),
        tuple(names),
    )


def subject_of_build(
    manifest: Manifest,
    original: Path,
    build: JobFolder,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Subject:
    """Subject with the rows of the build, split in the same way, and its network or estimator.

    Raises InvalidInput if the rows have changed since, or if none were held out for testing.
    """
    spec = build.spec()
    recipe = Recipe.from_dict(spec.recipe, Path(spec.directory))
    report(Progress(message="reading the build's data"))
    data = load_dataset(recipe.build.data)
    digest = manifest.metadata.get("data_digest")
    if digest and digest != data.digest:
        raise InvalidInput(
            f"the rows of {recipe.build.data.source} have changed since {manifest.model} was "
            f"built: expected digest {str(digest)[:12]}, got {data.digest[:12]}. Provide rows with "
            "--data",
            field="data",
        )
    parts = split(data, recipe.build.split)
    if not len(parts.test):
        raise InvalidInput(
            "the build has no held-out test rows to judge candidates on; set split.test in the "
            "recipe, or provide rows with --data",
            field="split.test",
        )
    training, estimator = None, None
    if recipe.build.model.estimator:
        estimator = _estimator(recipe, parts)
    else:
        training = _training(recipe, parts, build)
    return Subject(
        original=original_of(manifest, original),
        signature=manifest.signature,
        rows=EvaluationRows(
            inputs=named_rows(manifest.signature, parts.test.x),
            y=parts.test.y,
            task=parts.test.task,
            class_names=parts.test.class_names,
            slices=parts.test.slices,
            digest=parts.test.digest,
        ),
        calibration=calibration_rows(manifest.signature, parts),
        training=training,
        estimator=estimator,
        how=_how(recipe, parts, data.digest, build),
    )


def _training(recipe: Recipe, parts: Any, build: JobFolder) -> Training | None:
    """The trained network from the build's checkpoint; None if there is no usable checkpoint."""
    from maas.lifecycle.build import fingerprint_of  # noqa: PLC0415  (torch: 2 s)
    from maas.lifecycle.training.checkpoints import load_checkpoint  # noqa: PLC0415
    from maas.lifecycle.training.trainer import Trainer  # noqa: PLC0415

    trainer = Trainer(recipe.build.model, recipe.build.training, parts, build.work / "unused")
    state = load_checkpoint(build.work / "checkpoint.pt", fingerprint_of(recipe.build, parts))
    if state is None:
        return None
    trainer.served.load_state_dict(state["best"] or state["model"])
    trainer.served.eval()
    return Training(trainer.served, recipe.build, parts)


def _estimator(recipe: Recipe, parts: Any) -> Any:
    """The estimator, fitted again: equal rows, arguments and seed give an equal estimator."""
    from maas.lifecycle.training.estimators import fit_estimator, make_estimator  # noqa: PLC0415

    estimator = make_estimator(recipe.build.model, parts.train.task, recipe.build.training.seed)
    return fit_estimator(estimator, parts.train)[0]


def _how(recipe: Recipe, parts: Any, digest: str, build: JobFolder) -> dict[str, Any]:
    skipped = "the build's checkpoint is missing or was written by another version of torch"
    if recipe.build.model.estimator:
        skipped = "an estimator is neither pruned nor fine-tuned"
    return {
        "data": recipe.build.data.source,
        "data_digest": digest,
        "rows": {
            "train": len(parts.train),
            "validation": len(parts.validation),
            "test": len(parts.test),
        },
        "labels": "the build's own test rows",
        "build": build.path.name,
        "skipped": skipped,
    }
