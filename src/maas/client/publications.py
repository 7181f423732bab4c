"""publish: a trained model becomes an immutable version on the server."""

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
    from maas.lifecycle.publication import PreparedPublication


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
    """Converts `model` to ONNX on this machine, checks that both answer alike, and publishes it.

    `model`: a trained `torch.nn.Module`, a scikit-learn estimator, the path of an `.onnx` file,
    or what `maas.lifecycle.build.build` returned. `example`: one row or a few, as `[…]`, an array
    or `{"x": […]}`; not needed for the last two. `evaluation`: `(X, y)` on which to measure it,
    with the same shapes as training, or a finished Evaluation; it is stored as evidence with a
    report. `output_names`: of a module's outputs; default: the keys of the dict that it returns,
    or `output`. `metadata`: JSON values. Publishing the same again gives the same version.

    Raises UnsafeArtifact for a pickle-based file (load it yourself and pass the model) and
    InvalidInput if the model cannot be converted or does not answer alike afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="maas-publish-") as scratch:

        def prepare() -> PreparedPublication:
            # Brings onnxruntime and torch, which nothing else in the SDK needs.
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
    """Files first, then the one commit that makes them a version, then the evidence.

    May be repeated after any interruption: files and version are found by digest, and evidence
    that is there already is not added again.
    """
    for path, file in prepared.files:
        yield from upload(path, file.name)
    published: PublishedVersion = yield commit(prepared.manifest)
    there: tuple[Evidence, ...] = ()
    if not published.created:
        details: VersionDetails = yield version(str(published))
        there = details.evidence
    known = {_identity(e) for e in there}
    for item in prepared.evidence:
        if _identity(item) not in known:
            yield add_evidence(str(published), item)
    return published


def _identity(item: Evidence) -> tuple[str, str | None, str, str]:
    file = item.file.sha256 if item.file else ""
    return item.kind, item.variant, repr(sorted(item.how.items(), key=str)), file
