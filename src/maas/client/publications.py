"""publish: send a trained model to the server as an immutable version."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maas.client.answers import PublishedVersion, VersionDetails
from maas.client.http.calls import ComputeStep, Flow
from maas.client.registry import add_evidence, commit, upload, version
from maas.domain.models import Evidence

if TYPE_CHECKING:
    from maas.lifecycle.prepared_publication import PreparedPublication


def publish(
    model: Any,
    name: str,
    *,
    example: Any = None,
    evaluation: Any = None,
    task: str | None = None,
    feature_names: Sequence[str] = (),
    class_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
    description: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Flow[PublishedVersion]:
    """Convert a model to ONNX on this machine, check that both forms agree, and publish it.

    `model`: a trained `torch.nn.Module`, a scikit-learn estimator, the path of an `.onnx` file, or
    the result of `maas.lifecycle.build.build`. `name`: of the model. `example`: one row or a few,
    as a list, an array or `{"x": [...]}`; not needed for the last two kinds. `evaluation`: held-out
    rows `(X, y)` with the shapes of training, or a finished Evaluation; the metrics are stored as
    evidence, with a report. `task`: one of `maas.domain.models.Task`; default: from the outputs.
    `feature_names`, `class_names`: labels of the elements of input and output. `output_names`: of
    the outputs of a module; default: the keys of the dict that it returns, or `output`.
    `metadata`: JSON values. Publishing the same again gives the same version.

    Returns the version: `model`, `number`, `digest`, and `created`, which is False if it existed
    already. Raises UnsafeArtifact for a file based on pickle (load it yourself and pass the model),
    InvalidInput if the model cannot be converted or the forms do not agree.
    """
    with tempfile.TemporaryDirectory(prefix="maas-publish-") as scratch:

        def prepare() -> PreparedPublication:
            # Imports onnxruntime and torch, which nothing else in the SDK needs.
            from maas.lifecycle.publish import prepare as prepared  # noqa: PLC0415
            from maas.lifecycle.publish_inputs import PublishOptions  # noqa: PLC0415

            options = PublishOptions(
                name=name,
                example=example,
                evaluation=evaluation,
                task=task,
                feature_names=tuple(feature_names),
                class_names=tuple(class_names),
                output_names=tuple(output_names),
                description=description,
                metadata=dict(metadata or {}),
            )
            return prepared(model, options, Path(scratch))

        ready: PreparedPublication = yield ComputeStep(prepare)
        return (yield from publish_prepared(ready))


def publish_prepared(prepared: PreparedPublication) -> Flow[PublishedVersion]:
    """Send files, then the manifest, which makes them a version, then the evidence.

    Repeating this after an interruption is safe: files and version are found by their digests, and
    evidence that exists is not added again.
    """
    for path, file in prepared.files:
        yield from upload(path, file.name)
    published: PublishedVersion = yield commit(prepared.manifest)
    present: tuple[Evidence, ...] = ()
    if not published.created:
        details: VersionDetails = yield version(str(published))
        present = details.evidence
    identities = {_identity(item) for item in present}
    for item in prepared.evidence:
        if _identity(item) not in identities:
            yield add_evidence(str(published), item)
    return published


def _identity(item: Evidence) -> tuple[str, str | None, str, str]:
    file = item.file.sha256 if item.file else ""
    return item.kind, item.variant, repr(sorted(item.how.items(), key=str)), file
