"""Repositories of the Hugging Face Hub, pinned to the current commit of a name.

huggingface_hub resolves names, revisions and logins. The files are downloaded by `download`, which
resumes after the program was killed (huggingface_hub restarts each file since 2.0) and verifies
every file with the digest in the commit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx2

from maas.domain.errors import Forbidden, InvalidInput, NotFound, StorageFailed, Unavailable
from maas.domain.names import shown
from maas.lifecycle.sources.base import Fetched, SourceEntry, SourceRequest, choose, named
from maas.lifecycle.sources.download import Download, download
from maas.lifecycle.sources.workspace import ExpectedDigest, PartialDownload, is_whole

TIMEOUT_S = 30.0
_SOURCE = re.compile(
    r"hf://(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w./-]{1,255}))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch(request: SourceRequest, folder: Path) -> Fetched:
    """Fetches `hf://ORG/REPOSITORY[@REVISION]`; the revision is a branch, a tag or a commit."""
    match = _SOURCE.fullmatch(request.source)
    if match is None or ".." in request.source:
        raise InvalidInput(
            f"a source on the Hub is hf://org/repository[@revision]; got {shown(request.source)}",
            field="source",
        )
    repository = match["repo"]
    info = _info(repository, match["revision"], request.access.hf_endpoint)
    commit = str(info.sha or "")
    if not _COMMIT.fullmatch(commit):
        raise StorageFailed(f"the Hub names no commit of {repository}")
    siblings = {s.rfilename: s for s in info.siblings or ()}
    entries = [SourceEntry(name, s.size) for name, s in sorted(siblings.items())]
    files: dict[str, Path] = {}
    for entry in choose(entries, request.file, request.source):
        target = folder / commit / named(entry.path)
        digest = _digest(siblings[entry.path])
        if not is_whole(target, digest):
            target.parent.mkdir(exist_ok=True)
            source = _download(repository, entry, commit, digest, request.access.hf_endpoint)
            partial = PartialDownload(target, digest.value)
            download(source, partial, request.access, request.progress)
        files[target.name] = target
    origin = {"kind": "hf", "uri": f"hf://{repository}@{commit}", "commit": commit}
    if match["revision"] not in (None, commit):
        origin["revision"] = match["revision"]
    return Fetched(files, origin, _license(info))


def _info(repository: str, revision: str | None, endpoint: str) -> Any:
    """The Hub's information on a revision: commit, files, digests, model card."""
    hub = _library()
    errors = hub.errors
    try:
        return hub.HfApi(endpoint=endpoint or None).model_info(
            repository, revision=revision, files_metadata=True, timeout=TIMEOUT_S
        )
    except errors.GatedRepoError:
        raise Forbidden(
            f"{repository} requires accepting its terms: accept them on its page, then run "
            "`hf auth login` or set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise NotFound(
            f"the Hub has no model {repository}, or it is private; HF_TOKEN authenticates you"
        ) from None
    except errors.RevisionNotFoundError:
        raise NotFound(f"{repository} has no revision {shown(revision)}") from None
    except errors.OfflineModeIsEnabled:
        raise Unavailable("HF_HUB_OFFLINE is set, so the Hub is not contacted") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "?")
        raise Unavailable(f"the Hub responds with {status} for {repository}") from None
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise Unavailable(f"the Hub cannot be reached for {repository}: {error}") from None


def _download(
    repository: str, entry: SourceEntry, commit: str, digest: ExpectedDigest, endpoint: str
) -> Download:
    hub = _library()
    url = hub.hf_hub_url(repository, entry.path, revision=commit, endpoint=endpoint or None)
    headers = hub.utils.build_hf_headers(library_name="openmaas")
    return Download(httpx2.URL(url), digest, entry.size, headers)


def _digest(sibling: Any) -> ExpectedDigest:
    """The SHA-256 of a large file, the git object id of a small one."""
    if sibling.lfs is not None:
        return ExpectedDigest(str(sibling.lfs["sha256"]))
    if not sibling.blob_id:
        raise StorageFailed(f"the Hub has no digest of {shown(sibling.rfilename)}")
    return ExpectedDigest(str(sibling.blob_id), "git object id")


def _license(info: Any) -> str:
    card = info.card_data
    named_so = str(card.get("license") or "") if card is not None else ""
    if named_so == "other":
        named_so = str(card.get("license_name") or "other")
    return named_so[:100]


def _library() -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415 - an extra
        import huggingface_hub.errors  # noqa: PLC0415
        import huggingface_hub.utils  # noqa: PLC0415
    except ModuleNotFoundError:
        raise InvalidInput("hf:// sources need: pip install 'openmaas[hub]'") from None
    return huggingface_hub
