"""Versions, variants and evidence in the database."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from maas.domain.errors import Conflict, InvalidInput, NotFound
from maas.domain.models import Evidence, File, Task, Variant
from maas.storage.database import Database
from maas.storage.versions import Versions
from tests.integration.storage.conftest import Clock
from tests.integration.storage.examples import digest_of, manifest


def test_a_published_version_survives_a_round_trip(db: Database, clock: Clock) -> None:
    published, is_new = Versions(db).publish(manifest(), created_by="ada")
    assert is_new
    assert (published.number, published.created_by) == (1, "ada")
    assert published.created_at == clock.seconds
    assert Versions(db).get("digits") == Versions(db).get("digits", 1) == published
    assert published.manifest == manifest()
    assert Versions(db).get("digits").manifest.digest == manifest().digest


def test_the_same_manifest_again_is_the_same_version(db: Database, clock: Clock) -> None:
    first, _ = Versions(db).publish(manifest(), "ada")
    clock.seconds += 10
    again, is_new = Versions(db).publish(manifest(), "bob")
    assert not is_new
    assert again == first
    assert len(Versions(db).list("digits")) == 1
    assert Versions(db).models()[0]["updated_at"] == first.created_at


def test_each_model_has_its_own_numbers(db: Database) -> None:
    versions = Versions(db)
    for description in ("a", "b", "c"):
        versions.publish(manifest(description=description))
    assert versions.publish(manifest("article"))[0].number == 1
    assert [v.number for v in versions.list("digits")] == [1, 2, 3]
    assert versions.get("digits").manifest.description == "c"
    assert versions.get("digits", 2).manifest.description == "b"


def test_models_are_listed_with_their_newest_version(db: Database, clock: Clock) -> None:
    versions = Versions(db)
    versions.publish(manifest("b-model"))
    clock.seconds += 5
    versions.publish(replace(manifest("b-model"), task=Task.OTHER))
    versions.publish(manifest("a-model"))
    start = clock.seconds - 5
    assert versions.models() == [
        {"name": "a-model", "task": "multiclass-classification", "versions": 1, "latest": 1}
        | {"created_at": start + 5, "updated_at": start + 5},
        {"name": "b-model", "task": "other", "versions": 2, "latest": 2}
        | {"created_at": start, "updated_at": start + 5},
    ]


def test_an_absent_version_is_not_found(db: Database) -> None:
    versions = Versions(db)
    versions.publish(manifest())
    assert versions.publish(manifest("other"))[1]
    for absent in (("absent", None), ("digits", 2), ("digits", 0), ("'; DROP TABLE versions", 1)):
        with pytest.raises(NotFound):
            versions.get(*absent)
    with pytest.raises(NotFound, match="absent"):
        versions.list("absent")
    with pytest.raises(NotFound, match=r"^there is no model 'digts'; did you mean 'digits'\?$"):
        versions.list("digts")
    with pytest.raises(NotFound, match=r"^there is no model 'digts'; did you mean 'digits'\?$"):
        versions.get("digts", 2)
    with pytest.raises(NotFound, match=r"^model 'digits' has no version 2; the newest is 1$"):
        versions.get("digits", 2)
    with pytest.raises(NotFound):
        versions.evidence("digits", 2)
    with pytest.raises(NotFound):
        versions.add_evidence("digits", 2, Evidence("metrics", {}, {}))


@pytest.mark.parametrize("name", ["\ud800", "a\x00b"])
def test_text_that_the_database_cannot_store_is_invalid_input(db: Database, name: str) -> None:
    with pytest.raises((InvalidInput, NotFound)):
        Versions(db).get(name)
    with pytest.raises((InvalidInput, NotFound)):
        Versions(db).get("digits", 10**30)


def test_numbers_that_json_lacks_are_refused(db: Database) -> None:
    with pytest.raises(InvalidInput, match="manifest must be JSON"):
        Versions(db).publish(replace(manifest(), metadata={"loss": float("nan")}))
    assert Versions(db).models() == []


def test_evidence_is_stored_once_and_in_order(db: Database, clock: Clock) -> None:
    versions = Versions(db)
    versions.publish(manifest())
    report = File("report.html", digest_of(b"report"), 6)
    first = Evidence("report", {"accuracy": 0.98}, {"rows": 360}, file=report)
    second = Evidence("latency", {"p50": 0.1}, {"machine": "m"}, variant="onnx")
    versions.add_evidence("digits", 1, first)
    clock.seconds += 1
    versions.add_evidence("digits", 1, second)
    clock.seconds += 1
    versions.add_evidence("digits", 1, first)
    assert versions.evidence("digits", 1) == [
        replace(first, created_at=clock.seconds - 2),
        replace(second, created_at=clock.seconds - 1),
    ]


def test_repeated_evidence_gets_the_latest_time(db: Database) -> None:
    versions = Versions(db)
    versions.publish(manifest())
    first = Evidence("comparison", {"accuracy": 0.98}, {"seed": 0}, created_at=100.0)
    other = Evidence("comparison", {"accuracy": 0.97}, {"seed": 1}, created_at=200.0)
    again = replace(first, created_at=300.0)
    for one in (first, other, again, first):  # the last one is a late retry
        versions.add_evidence("digits", 1, one)
    assert versions.evidence("digits", 1) == [other, again]


def test_evidence_for_an_unknown_variant_is_refused(db: Database) -> None:
    versions = Versions(db)
    versions.publish(manifest())
    with pytest.raises(InvalidInput, match="no variant 'torch'"):
        versions.add_evidence("digits", 1, Evidence("latency", {}, {}, variant="torch"))
    with pytest.raises(InvalidInput, match="evidence must be JSON"):
        versions.add_evidence("digits", 1, Evidence("latency", {"p50": float("inf")}, {}))
    assert versions.evidence("digits", 1) == []


def test_files_of_manifests_and_of_evidence_are_in_use(db: Database) -> None:
    versions = Versions(db)
    versions.publish(manifest(content=b"model"))
    report = File("report.html", digest_of(b"report"), 6)
    assert not versions.uses_file(report.sha256)
    versions.add_evidence("digits", 1, Evidence("report", {}, {}, file=report))
    assert versions.uses_file(report.sha256)
    assert versions.uses_file(digest_of(b"model"))
    assert not versions.uses_file(digest_of(b"nobody's"))


def test_fifty_publications_of_one_manifest_are_one_version(db: Database) -> None:
    versions = Versions(db)
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: versions.publish(manifest()), range(50)))
    assert Counter(is_new for _, is_new in results) == {True: 1, False: 49}
    assert {version.number for version, _ in results} == {1}
    assert len(versions.list("digits")) == 1


def test_concurrent_publications_get_different_numbers(db: Database) -> None:
    versions = Versions(db)
    manifests = [manifest(description=f"number {i}") for i in range(24)]
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(versions.publish, manifests))
    assert all(is_new for _, is_new in results)
    assert sorted(version.number for version, _ in results) == list(range(1, 25))
    stored = {v.number: v.manifest for v in versions.list("digits")}
    assert all(stored[version.number] == version.manifest for version, _ in results)


def test_a_variant_is_added_once_and_listed_with_the_published_ones(db: Database) -> None:
    versions = Versions(db)
    version, _ = versions.publish(manifest())
    small = Variant(
        "onnx-int8", "onnx", (File("model.onnx", digest_of(b"b"), 1),), {"arena": False}
    )
    assert versions.add_variant("digits", 1, small, "me")[1] is True
    updated, is_new = versions.add_variant("digits", 1, small, "you")
    assert is_new is False and updated.added == (small,)
    assert updated.manifest == version.manifest
    assert [v.name for v in versions.get("digits").variants] == ["onnx", "onnx-int8"]
    assert [v.added for v in versions.list("digits")] == [(small,)]
    assert versions.uses_file(digest_of(b"b"))
    versions.add_evidence("digits", 1, Evidence("comparison", {}, {}, "onnx-int8"))


def test_a_variant_never_changes(db: Database) -> None:
    versions = Versions(db)
    versions.publish(manifest())
    small = Variant("onnx-int8", "onnx", (File("model.onnx", digest_of(b"b"), 1),))
    versions.add_variant("digits", 1, small)
    for name in ("onnx-int8", "onnx"):
        other = replace(small, name=name, options={"arena": False})
        with pytest.raises(Conflict, match=f"another variant {name}"):
            versions.add_variant("digits", 1, other)
    with pytest.raises(NotFound):
        versions.add_variant("digits", 2, small)
    assert versions.get("digits").added == (small,)
