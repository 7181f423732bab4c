"""pull: publish a model from a hub, a URL, a bucket, a package or a path.

The client downloads the files and publishes them like any other model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maas import settings
from maas.client.answers import PublishedVersion
from maas.client.http.calls import ComputeStep, Flow
from maas.client.publications import publish_prepared
from maas.client.registry import models

if TYPE_CHECKING:
    from maas.lifecycle.pull import Pulled
    from maas.lifecycle.sources.base import SourceAccess


@dataclass(frozen=True)
class PulledModel:
    """A pulled model: its version, task, runtime, license and source."""

    published: PublishedVersion
    task: str
    runtime: str
    license: str
    """Empty if it is unknown."""
    license_from: str
    """Who states the license: `you`, `the file`, `the source` or `the catalog`; empty if nobody
    does."""
    source: dict[str, Any]

    def __str__(self) -> str:
        return str(self.published)

    def to_dict(self) -> dict[str, Any]:
        return self.published.to_dict() | {
            "task": self.task,
            "runtime": self.runtime,
            "license": self.license,
            "license_from": self.license_from,
            "source": self.source,
        }


def pull(
    source: str,
    name: str | None = None,
    *,
    file: str | None = None,
    sha256: str | None = None,
    license: str | None = None,  # noqa: A002 - the field's own word
    description: str = "",
    progress: Callable[[str, int, int | None], None] | None = None,
    configured: settings.Settings | None = None,
) -> Flow[PulledModel]:
    """Download a model to this machine and publish it as `name` (default: that in the catalog).

    `source`: a name of the catalog, `hf://org/repository[@revision]`, an https URL (with its
    `sha256`), `s3://`, `gs://` or `az://bucket/key`, `package://PACKAGE/FILE`, or a path. `file`:
    the file to take from a source with several models. `license`: replaces that of the source.
    `progress(name, done, total)` is called with numbers of bytes; `total` may be None.
    `configured`: settings; default: those of this environment. After an interruption, the same call
    resumes the download.

    Raises NotFound, InvalidInput, UnsafeArtifact, Forbidden, Unavailable, OutOfSpace.
    """
    yield models()  # fails before gigabytes are downloaded, if the server or the key is wrong
    active = configured or settings.load()
    with ExitStack() as downloads:

        def prepare() -> Pulled:
            # Imports the readers of model files, which nothing else in the SDK needs.
            from maas.lifecycle.pull import PullOptions, pulled  # noqa: PLC0415
            from maas.lifecycle.sources.base import SourceRequest  # noqa: PLC0415

            callback = {"progress": progress} if progress else {}
            request = SourceRequest(source, access_of(active), file, sha256, **callback)
            options = PullOptions(name, license, description)
            return downloads.enter_context(pulled(request, options))

        ready: Pulled = yield ComputeStep(prepare)
        published = yield from publish_prepared(ready.publication)
    manifest = ready.publication.manifest
    return PulledModel(
        published,
        task=str(manifest.task),
        runtime=manifest.variants[0].runtime,
        license=ready.license,
        license_from=ready.license_from,
        source=dict(manifest.metadata["source"]),
    )


def access_of(configured: settings.Settings) -> SourceAccess:
    """Limits, folders and credentials of pulls, from the settings."""
    from maas.lifecycle.sources.base import ObjectStoreAccess, SourceAccess  # noqa: PLC0415

    pull = configured.pull
    return SourceAccess(
        folder=configured.pulls_dir,
        max_bytes=pull.max_bytes,
        ca_file=pull.ca_file,
        hf_endpoint=pull.hf_endpoint,
        stores=ObjectStoreAccess(
            s3_endpoint=pull.s3_endpoint,
            s3_region=pull.s3_region,
            s3_access_key_id=pull.s3_access_key_id,
            s3_secret_access_key=pull.s3_secret_access_key,
            gs_service_account_file=pull.gs_service_account_file,
            az_account=pull.az_account,
            az_access_key=pull.az_access_key,
        ),
    )
