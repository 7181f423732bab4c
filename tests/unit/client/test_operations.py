"""Requests and results of each operation."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import Any

import pytest

import maas
from maas.client.client import AsyncClient, Client
from maas.client.deployments import DeploymentFailed
from maas.domain.deployments import Scaling, Target
from maas.domain.errors import ArtifactCorrupt, DeadlineExceeded, InvalidInput
from maas.domain.jobs import Job, JobState
from maas.domain.models import Evidence, File, Manifest, Task, Variant
from maas.domain.signature import Signature, TensorSpec
from maas.lifecycle.prepared_publication import PreparedPublication
from tests.support.fakes.scripted_server import FakeServer

BYTES = b"onnx" * 1000
SHA = hashlib.sha256(BYTES).hexdigest()
FILE_PATH = f"/api/v1/files/{SHA}"


@pytest.fixture
def client(fake: FakeServer) -> Client:
    return Client(fake.url, "secret", timeout=5)


def deployment(**changes: Any) -> dict[str, Any]:
    return {
        "name": "digits",
        "model": "digits",
        "targets": [{"version": 1, "variant": "onnx", "weight": 100}],
        "scaling": {"replicas": 1},
        "default": True,
        "revision": 1,
        "ready": 1,
        "desired": 1,
        "state": "ready",
        "reason": "",
        "added_by_a_newer_server": 1,
    } | changes


def manifest() -> Manifest:
    tensor = TensorSpec("x", "FP32", (2,))
    return Manifest(
        "digits",
        Task.REGRESSION,
        Signature((tensor,), (TensorSpec("y", "FP32"),)),
        (Variant("onnx", "onnx", (File("model.onnx", SHA, len(BYTES)),)),),
    )


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedPublication:
    (tmp_path / "model.onnx").write_bytes(BYTES)
    evidence = Evidence("metrics", {"metrics": {"mae": 0.5}}, {"rows": 10}, created_at=1.0)
    files = ((tmp_path / "model.onnx", manifest().files()[0]),)
    return PreparedPublication(manifest(), files, (evidence,))


def published(fake: FakeServer, status: int) -> None:
    raw = {"model": "digits", "number": 3, "digest": manifest().digest, "created_at": 1.0}
    fake.answers("POST", "/api/v1/models/digits/versions", raw, status=status)
    fake.answers("POST", "/api/v1/models/digits/versions/3/evidence", {}, status=201)


def test_both_clients_have_the_same_names_with_the_same_parameters() -> None:
    names = {n for n in dir(Client) if not n.startswith("_")}
    assert names == {n for n in dir(AsyncClient) if not n.startswith("_")}
    for name in names - {"base_url", "close"}:
        one, other = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(one).parameters == inspect.signature(other).parameters, name
        assert inspect.iscoroutinefunction(other), name
        assert not inspect.iscoroutinefunction(one), name
        assert (one.__doc__ or "").strip(), f"{name} has no docstring"
    groups, same = (
        {n: type(v) for n, v in vars(client).items() if not n.startswith("_")}
        for client in (Client("http://x"), AsyncClient("http://x"))
    )
    assert groups == same and len(groups) == 5
    for name, group in groups.items():
        for verb in (n for n in dir(group) if not n.startswith("_")):
            assert (getattr(group, verb).__doc__ or "").strip(), f"{name}.{verb} has no docstring"


def test_publish_sends_files_then_the_manifest_then_evidence(
    fake: FakeServer, client: Client, prepared: PreparedPublication
) -> None:
    fake.answers("HEAD", FILE_PATH, status=404)
    fake.answers("PUT", FILE_PATH, {"sha256": SHA, "size": len(BYTES)}, status=201)
    published(fake, 201)
    result = client.publish_prepared(prepared)
    assert (str(result), result.created) == ("digits:3", True)
    assert [(a.method, a.path) for a in fake.requests] == [
        ("HEAD", FILE_PATH),
        ("PUT", FILE_PATH),
        ("POST", "/api/v1/models/digits/versions"),
        ("POST", "/api/v1/models/digits/versions/3/evidence"),
    ]
    upload = fake.requests[1]
    assert upload.body == BYTES
    assert upload.headers["content-length"] == str(len(BYTES))
    assert Manifest.from_dict(fake.requests[2].json()) == manifest()


async def _publish(url: str, prepared: PreparedPublication) -> Any:
    async with AsyncClient(url) as client:
        return await client.publish_prepared(prepared)


def test_the_async_client_streams_files_too(
    fake: FakeServer, prepared: PreparedPublication
) -> None:
    import asyncio

    fake.answers("HEAD", FILE_PATH, status=404)
    fake.answers("PUT", FILE_PATH, {}, status=201)
    published(fake, 201)
    assert str(asyncio.run(_publish(fake.url, prepared))) == "digits:3"
    assert fake.requests[1].body == BYTES


def test_publishing_again_sends_neither_files_nor_evidence(
    fake: FakeServer, client: Client, prepared: PreparedPublication
) -> None:
    fake.answers("HEAD", FILE_PATH, headers={"content-length": str(len(BYTES))})
    published(fake, 200)
    there = prepared.evidence[0].to_dict() | {"created_at": 99.0}
    raw = {"model": "digits", "number": 3, "digest": "d", "manifest": manifest().to_dict()}
    fake.answers("GET", "/api/v1/models/digits/versions/3", raw | {"evidence": [there]})
    assert client.publish_prepared(prepared).created is False
    assert [a.method for a in fake.requests] == ["HEAD", "POST", "GET"]


def test_an_interrupted_publication_adds_the_evidence_that_is_missing(
    fake: FakeServer, client: Client, prepared: PreparedPublication
) -> None:
    fake.answers("HEAD", FILE_PATH, headers={"content-length": str(len(BYTES))})
    published(fake, 200)
    raw = {"model": "digits", "number": 3, "digest": "d", "manifest": manifest().to_dict()}
    fake.answers("GET", "/api/v1/models/digits/versions/3", raw | {"evidence": []})
    client.publish_prepared(prepared)
    assert fake.count("POST", "/api/v1/models/digits/versions/3/evidence") == 1


def test_a_commit_without_a_response_is_retried(
    fake: FakeServer, client: Client, prepared: PreparedPublication
) -> None:
    fake.answers("HEAD", FILE_PATH, headers={"content-length": str(len(BYTES))})
    fake.drops("POST", "/api/v1/models/digits/versions")
    published(fake, 201)
    assert client.publish_prepared(prepared).number == 3
    assert fake.count("POST", "/api/v1/models/digits/versions") == 2


def test_pickle_files_are_refused_with_advice(client: Client, tmp_path: Path) -> None:
    for name in ("net.pt", "net.PTH", "model.pkl", "model.joblib"):
        with pytest.raises(maas.UnsafeArtifact, match="Load it yourself"):
            client.publish(tmp_path / name, "net")


def test_a_download_with_another_digest_is_refused(fake: FakeServer, client: Client) -> None:
    fake.answers_bytes("GET", FILE_PATH, BYTES)
    assert client.files.download(SHA) == BYTES
    other = hashlib.sha256(b"other").hexdigest()
    fake.answers_bytes("GET", f"/api/v1/files/{other}", BYTES)
    with pytest.raises(ArtifactCorrupt):
        client.files.download(other)


def test_deploy_waits_until_ready_and_reports_the_states(fake: FakeServer, client: Client) -> None:
    path = "/api/v1/deployments/digits"
    fake.answers("PUT", path, deployment(ready=0, state="starting"))
    fake.answers("GET", path, deployment(ready=0, state="starting"))
    fake.answers("GET", path, deployment())
    seen: list[str] = []
    view = client.deploy(
        "digits", version=2, variant="onnx", replicas=2, progress=lambda v: seen.append(v.state)
    )
    assert view.ready == 1
    assert seen == ["starting", "ready"]
    assert fake.requests[0].json() == {
        "model": "digits",
        "version": 2,
        "variant": "onnx",
        "scaling": {"replicas": 2},
    }


def test_deploy_omits_what_was_not_given(fake: FakeServer, client: Client) -> None:
    fake.answers("PUT", "/api/v1/deployments/digits", deployment())
    client.deploy("digits", wait_s=0)
    assert fake.requests[0].json() == {"model": "digits"}
    client.deployments.put(
        "digits", maas_change(targets=[Target(1, "onnx", 90), Target(2, "onnx", 10)])
    )
    assert fake.requests[1].json()["targets"][1] == {"version": 2, "variant": "onnx", "weight": 10}


def maas_change(**more: Any) -> Any:
    from maas.client.deployments import DeploymentChange

    return DeploymentChange("digits", **more)


def test_a_failed_deployment_raises_its_reason(fake: FakeServer, client: Client) -> None:
    path = "/api/v1/deployments/digits"
    fake.answers("PUT", path, deployment(ready=0, state="starting"))
    fake.answers("GET", path, deployment(ready=0, state="failed", reason="model.onnx is corrupt"))
    with pytest.raises(DeploymentFailed, match=r"model\.onnx is corrupt"):
        client.deploy("digits")


def test_a_deployment_that_does_not_become_ready_in_time(fake: FakeServer, client: Client) -> None:
    path = "/api/v1/deployments/digits"
    fake.answers("PUT", path, deployment(ready=0, state="starting"))
    fake.answers("GET", path, deployment(ready=0, state="starting", reason="loading"))
    with pytest.raises(DeadlineExceeded, match=r"not ready after 0\.1 s: loading"):
        client.deploy("digits", wait_s=0.1)


def test_scaling_names_are_checked_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(InvalidInput, match="replicas"):
        client.deploy("digits", replicas=-1)
    with pytest.raises(TypeError, match="replcas"):
        client.deploy("digits", replcas=1)


def test_names_cannot_become_paths(client: Client, fake: FakeServer) -> None:
    for name in ("../../etc", "a/b", "..", "A", ""):
        with pytest.raises(InvalidInput):
            client.predict(name, x=1)
        with pytest.raises(InvalidInput):
            client.deployments.get(name)
    assert not fake.requests


def test_explain_separates_inputs_from_options(fake: FakeServer, client: Client) -> None:
    fake.answers("POST", "/explain/digits", {"baseline": 0.1})
    answer = client.explain("digits", x=[1], options={"samples": 128, "background": {"x": [[0]]}})
    assert answer == {"baseline": 0.1}
    assert fake.requests[0].json() == {
        "inputs": {"x": [1]},
        "samples": 128,
        "background": {"x": [[0]]},
    }
    with pytest.raises(InvalidInput, match="no option sample"):
        client.explain("digits", x=[1], options={"sample": 1})


def test_the_default_deployment_and_inputs_that_are_not_identifiers(
    fake: FakeServer, client: Client
) -> None:
    fake.answers("POST", "/predict", {"y": 1})
    assert client.predict(None, {"input:0": [1]}, other=2) == {"y": 1}
    assert fake.requests[0].json() == {"input:0": [1], "other": 2}
    with pytest.raises(InvalidInput, match="both in inputs and as a keyword"):
        client.predict(None, {"x": 1}, x=2)


def test_keys_usage_jobs_and_logs(fake: FakeServer, client: Client) -> None:
    key = {"id": "k1", "name": "ada", "scopes": ["call"], "created_at": 1.0, "revoked_at": None}
    fake.answers("POST", "/api/v1/keys", key | {"token": "maas_k1_x"}, status=201)
    assert client.keys.create("ada", ["call"]).token == "maas_k1_x"
    fake.answers("GET", "/api/v1/keys", {"keys": [key]})
    assert client.keys.list()[0].name == "ada"
    fake.answers("DELETE", "/api/v1/keys/k1", key | {"revoked_at": 2.0})
    assert client.keys.revoke("k1").revoked_at == 2.0
    fake.answers("GET", "/api/v1/usage", {"usage": [{"requests": 3}]})
    assert client.usage(deployment="digits") == [{"requests": 3}]
    assert fake.requests[-1].path == "/api/v1/usage?deployment=digits"
    job = Job("j1", "build", "digits", JobState.RUNNING, cancel_requested=True)
    fake.answers("PATCH", "/api/v1/jobs/j1", job.to_dict() | {"of_a_newer_server": 1})
    assert client.jobs.update("j1", {"state": "running"}).cancel_requested
    fake.answers_bytes("GET", "/api/v1/logs/control", b"line\n")
    assert client.logs("control", lines=5) == "line\n"
    assert fake.requests[-1].path == "/api/v1/logs/control?lines=5"


def test_scaling_of_a_newer_server_is_read(fake: FakeServer, client: Client) -> None:
    scaling = {"replicas": 3, "gpu": 1}
    fake.answers("GET", "/api/v1/deployments/digits", deployment(scaling=scaling))
    assert client.deployments.get("digits").deployment.scaling == Scaling(replicas=3)
