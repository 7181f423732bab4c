"""The API on a real control process: deployments."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.integration.control.home import (
    Home,
    problem,
    tiny_onnx,
)


def test_a_deployment_keeps_its_variant_until_another_is_named(shared_control: Home) -> None:
    http = shared_control.http
    shared_control.publish("kept", tiny_onnx(15))
    version = http.get("/api/v1/models/kept/versions/1").json()
    other = version["manifest"]["variants"][0] | {"name": "other"}
    added = http.post("/api/v1/models/kept/versions/1/variants", json=other)
    assert added.status_code == 201, added.text

    def variant(**fields: object) -> str:
        view = shared_control.deploy("kept", model="kept", scaling={"replicas": 0}, **fields)
        return str(view["targets"][0]["variant"])

    assert variant() == "onnx"
    assert variant(variant="other") == "other"
    assert variant() == "other"  # as with `--replicas` alone
    assert variant(variant="onnx") == "onnx"
    shared_control.publish("kept", tiny_onnx(16))
    assert variant(version=1, variant="other") == "other"
    moved = shared_control.deploy("kept", model="kept")
    assert moved["targets"][0]["variant"] == "onnx"  # the newest version has only this one
    http.delete("/api/v1/deployments/kept")


def test_other_settings_do_not_change_the_targets(shared_control: Home) -> None:
    """Adding a replica neither moves traffic to the newest version nor ends a split."""
    http = shared_control.http
    for size in (17, 18, 19):
        shared_control.publish("split", tiny_onnx(size))
    shares = [{"version": 1, "weight": 90}, {"version": 2, "weight": 10}]
    scaling = {"replicas": 0}
    shared_control.deploy("split", model="split", targets=shares, scaling=scaling)

    def versions(**fields: object) -> list[tuple[int, int]]:
        view = shared_control.deploy("split", model="split", **fields)
        return [(target["version"], target["weight"]) for target in view["targets"]]

    others: tuple[dict[str, object], ...]
    others = ({"scaling": {"threads": 2}}, {"default": False}, {"gate": ""}, {"scaling": {}})
    for other in others:
        assert versions(**other) == [(1, 90), (2, 10)], other
    assert [one for one, _ in versions(version=2, scaling={"threads": 1})] == [2]
    assert [one for one, _ in versions(scaling={"threads": 2})] == [2]
    assert [one for one, _ in versions()] == [3]
    shared_control.publish("another", tiny_onnx(20))
    view = shared_control.deploy("split", model="another", scaling={"threads": 1})
    assert (view["model"], view["targets"][0]["version"]) == ("another", 1)
    http.delete("/api/v1/deployments/split")


def test_concurrent_changes_of_different_fields_are_both_applied(
    shared_control: Home,
) -> None:
    http = shared_control.http
    for size in (21, 22):
        shared_control.publish("both", tiny_onnx(size))
    address = "/api/v1/deployments/both"
    moved = {"model": "both", "version": 2}
    scaled = {"model": "both", "scaling": {"threads": 2}}
    for _ in range(15):
        before = {"model": "both", "version": 1, "scaling": {"replicas": 0, "threads": 1}}
        assert http.put(address, json=before).status_code == 200
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda body: http.put(address, json=body), [moved, scaled]))
        assert [one.status_code for one in done] == [200, 200]
        view = http.get(address).json()
        assert (view["targets"][0]["version"], view["scaling"]["threads"]) == (2, 2)
    http.delete(address)


def test_deployments_are_validated_and_keep_omitted_fields(shared_control: Home) -> None:
    http = shared_control.http
    shared_control.publish("d", tiny_onnx(14))
    put = "/api/v1/deployments/d"
    problem(http.put(put, json={"model": "nobody"}), 404, "not_found")
    problem(http.put(put, json={"model": "d", "version": 7}), 404, "not_found")
    problem(http.put(put, json={"model": "d", "variant": "gguf"}), 422, "invalid_input")
    problem(http.put(put, json={"model": "d", "replicas": 2}), 422, "invalid_input")
    problem(http.put(put, json={"model": "d", "scaling": {"replicas": -1}}), 422, "invalid_input")
    problem(http.put(put, json={"model": "d", "scaling": {"replica": 1}}), 422, "invalid_input")
    both = {"model": "d", "version": 1, "targets": [{"version": 1}]}
    problem(http.put(put, json=both), 422, "invalid_input")
    problem(http.put("/api/v1/deployments/Not%20Good", json={"model": "d"}), 422, "invalid_input")
    problem(http.post(f"{put}/rollback"), 404, "not_found")

    first = shared_control.deploy("d", model="d", scaling={"replicas": 0, "max_batch": 7})
    assert first["scaling"]["max_batch"] == 7 and first["desired"] == 0
    problem(http.post(f"{put}/rollback"), 409, "conflict")
    second = shared_control.deploy("d", model="d", scaling={"threads": 2})
    assert second["scaling"] == first["scaling"] | {"threads": 2} and second["revision"] == 2
    same = shared_control.deploy("d", model="d", scaling={"threads": 2})
    assert same["revision"] == 2  # a retry does not add a revision that a rollback would restore
    back = http.post(f"{put}/rollback").json()
    assert back["scaling"] == first["scaling"] and back["revision"] == 3
    listed = http.get("/api/v1/deployments").json()["deployments"]
    assert "d" in [d["name"] for d in listed]
    assert http.delete(put).status_code == 204
    problem(http.get(put), 404, "not_found")
    problem(http.delete(put), 404, "not_found")
