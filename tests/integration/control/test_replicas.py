"""Replicas of a real control process: start, update, crash, hang, adoption and stop."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from maas.storage.database import Database
from maas.storage.deployments import Deployments
from tests.integration.control.home import Home, eventually, kill, pids, sha256, tiny_onnx

BROKEN = tiny_onnx(3).replace(b"Mul", b"Mol")
"""A valid ONNX file with an unknown operator."""
REPLACED_S = 2.0
"""Acceptance criterion: time from the kill of a replica to an response of its replacement."""


def deployed(control: Home, *, replicas: int = 1) -> set[int]:
    """Deploys `t`, which multiplies its input by three; returns the process ids of its replicas."""
    control.publish("m", tiny_onnx(3))
    control.deploy("t", model="m", scaling={"replicas": replicas})
    return pids(control.wait_for("t", "ready"))


def stored_file(control: Home, data: bytes) -> Path:
    digest = sha256(data)
    return control.path / "artifacts" / "sha256" / digest[:2] / digest


def test_publish_deploy_predict(control: Home) -> None:
    control.publish("m", tiny_onnx(3))
    control.deploy("t", model="m")
    view = control.wait_for("t", "ready")
    assert (view["ready"], view["desired"], view["default"], view["reason"]) == (1, 1, True, "")
    assert control.predict("t", [1, 2, 3]) == [3, 6, 9]
    assert control.snapshot().default == "t"
    (replica,) = view["replicas"]
    assert replica["rss_bytes"] > 1 << 20 and replica["id"].startswith("r-")
    # The readiness probe and the prediction above.
    eventually(lambda: control.view("t")["replicas"][0]["served"] == 2, "two predictions count")
    (process,) = control.replica_processes()
    assert os.getsid(process.pid) == process.pid  # Ctrl-C in a terminal does not reach it


def test_a_killed_replica_is_replaced_in_time(control: Home) -> None:
    (previous,) = deployed(control)
    (socket,) = control.sockets("t")
    kill(previous)
    killed = time.monotonic()
    eventually(lambda: socket not in control.sockets("t"), "the snapshot drops it", 0.5)
    eventually(lambda: control.sockets("t"), "the snapshot has the replacement", REPLACED_S)
    assert control.predict("t", [1, 1, 1]) == [3, 3, 3]
    assert time.monotonic() - killed <= REPLACED_S
    assert previous not in pids(control.wait_for("t", "ready"))


def test_one_of_two_replicas_keeps_answering(control: Home) -> None:
    previous = deployed(control, replicas=2)
    victim = previous.pop()
    kill(victim)
    eventually(lambda: len(control.sockets("t")) == 1, "the snapshot drops it", 0.5)
    assert control.predict("t", [1, 1, 1]) == [3, 3, 3]
    present = pids(control.wait_for("t", "ready"))
    assert victim not in present and previous < present and len(present) == 2


def test_a_hung_replica_is_replaced(control: Home) -> None:
    (previous,) = deployed(control)
    kill(previous, signal.SIGSTOP)
    eventually(lambda: not psutil.pid_exists(previous), "the hung replica is killed", 8.0)
    present = pids(control.wait_for("t", "ready"))
    assert present and previous not in present


def test_an_update_switches_only_when_the_new_version_answers(control: Home) -> None:
    (previous,) = deployed(control)
    (socket,) = control.sockets("t")
    control.publish("m", tiny_onnx(5))
    control.deploy("t", model="m")
    answers = set()
    while True:
        answers.add(control.predict("t", [1, 1, 1])[0])
        if control.sockets("t") != [socket]:
            break
    assert control.predict("t", [1, 1, 1]) == [5, 5, 5]
    assert answers <= {3.0, 5.0} and 3.0 in answers
    control.wait_for("t", "ready")
    eventually(lambda: not psutil.pid_exists(previous), "the old replica drains and exits")
    assert len(control.replica_processes()) == 1


def test_a_version_that_does_not_load_never_gets_traffic(control: Home) -> None:
    previous = deployed(control)
    sockets = control.sockets("t")
    control.publish("m", BROKEN)
    control.deploy("t", model="m")
    view = control.wait_for("t", "failed")
    assert "Mol" in view["reason"] and "revision 1 answers meanwhile" in view["reason"]
    assert (view["ready"], view["desired"]) == (0, 1)
    assert control.sockets("t") == sockets and pids(view) == previous
    assert control.predict("t", [1, 1, 1]) == [3, 3, 3]

    # The next control process routes to the old version, too, and restarts it after a crash.
    control.kill()
    control.start()
    assert control.sockets("t") == sockets
    kill(previous.pop())
    eventually(lambda: control.sockets("t") not in ([], sockets), "the old version is back", 3.0)
    assert control.predict("t", [1, 1, 1]) == [3, 3, 3]

    response = control.http.post("/api/v1/deployments/t/rollback")
    assert response.status_code == 200, response.text
    assert control.wait_for("t", "ready")["targets"][0]["version"] == 1


def test_a_corrupt_artifact_is_named_and_the_old_version_serves(control: Home) -> None:
    deployed(control)
    second = tiny_onnx(7)
    control.publish("m", second)
    flipped = bytearray(second)
    flipped[len(flipped) // 2] ^= 1
    path = stored_file(control, second)
    path.chmod(0o600)
    path.write_bytes(flipped)
    (control.settings.cache_dir / sha256(second)).unlink(missing_ok=True)
    control.deploy("t", model="m")
    view = control.wait_for("t", "failed")
    assert view["reason"].startswith("artifact_corrupt: ")
    assert control.predict("t", [1, 1, 1]) == [3, 3, 3]

    path.write_bytes(second)
    control.deploy("t", model="m")
    control.wait_for("t", "ready")
    assert control.predict("t", [1, 1, 1]) == [7, 7, 7]


def test_replicas_serve_while_control_is_killed_and_are_adopted(control: Home) -> None:
    previous = deployed(control, replicas=2)
    sockets = set(control.sockets("t"))
    generation = control.snapshot().generation
    control.kill()
    assert control.predict("t", [1, 1, 1]) == [3, 3, 3]
    control.start()
    assert set(control.sockets("t")) == sockets
    assert pids(control.wait_for("t", "ready")) == previous
    assert control.snapshot().generation > generation
    assert "adopting 2" in control.log()
    # Adopted replicas are monitored like child processes.
    kill(previous.pop())
    assert len(pids(control.wait_for("t", "ready"))) == 2


def test_only_replicas_of_present_deployments_are_adopted(control: Home) -> None:
    (previous,) = deployed(control)
    control.kill()
    # The deployment is deleted while control is not running.
    database = Database.open(control.settings.database_url)
    Deployments(database).delete("t")
    database.close()
    control.start()
    eventually(lambda: not psutil.pid_exists(previous), "the surplus replica exits")
    assert control.snapshot().deployments == ()


def test_a_draining_replica_is_not_adopted(control: Home) -> None:
    """Control is killed while a replica drains; the next control starts another replica."""
    (previous,) = deployed(control)
    kill(previous, signal.SIGSTOP)  # so that it does not exit
    control.deploy("t", model="m", scaling={"replicas": 0})
    specs = control.settings.run_dir / "replicas"
    eventually(lambda: not list(specs.glob("*.json")), "the replica is retired")
    control.kill()
    control.start()
    control.deploy("t", model="m", scaling={"replicas": 1})
    assert previous not in pids(control.wait_for("t", "ready"))
    kill(previous, signal.SIGCONT)
    eventually(lambda: not psutil.pid_exists(previous), "the old replica exits")
    assert control.predict("t", [1, 1, 1]) == [3, 3, 3]


def test_scaling_up_down_and_to_zero(control: Home) -> None:
    first = deployed(control)
    control.deploy("t", model="m", scaling={"replicas": 3})
    three = pids(control.wait_for("t", "ready"))
    assert len(three) == 3 and first < three
    control.deploy("t", model="m", scaling={"replicas": 1})
    assert pids(control.wait_for("t", "ready")) == first
    control.deploy("t", model="m", scaling={"replicas": 0})
    view = control.wait_for("t", "stopped")
    assert view["reason"] == "it is scaled to 0 replicas"
    (routes,) = control.snapshot().deployments
    assert routes.reason == "it is scaled to 0 replicas"
    eventually(lambda: not control.replica_processes(), "the last replica exits")


def test_split_traffic_and_delete(control: Home) -> None:
    control.publish("m", tiny_onnx(3))
    control.publish("m", tiny_onnx(5))
    targets = [{"version": 1, "weight": 9}, {"version": 2, "weight": 1}]
    control.deploy("t", model="m", targets=targets)
    control.wait_for("t", "ready")
    (routes,) = control.snapshot().deployments
    assert [(r.version, r.weight, len(r.sockets)) for r in routes.targets] == [(1, 9, 1), (2, 1, 1)]
    assert control.http.delete("/api/v1/deployments/t").status_code == 204
    assert control.snapshot().deployments == ()
    eventually(lambda: not control.replica_processes(), "its replicas exit")


def test_sigterm_stops_replicas_and_exits_with_status_zero(control: Home) -> None:
    deployed(control, replicas=2)
    assert control.stop() == 0
    assert control.replica_processes() == []
    left = {path.name for path in control.settings.run_dir.iterdir()}
    assert not any(name.startswith("r-") for name in left)


def test_the_end_of_the_lifeline_stops_everything(control: Home) -> None:
    deployed(control)
    os.close(control.lifeline_end)
    assert control.process is not None and control.process.wait(15) == 0
    eventually(lambda: not control.replica_processes(), "the replicas exit")


def test_a_restart_without_replicas_serves_again(control: Home) -> None:
    deployed(control)
    assert control.stop() == 0
    control.start()
    control.wait_for("t", "ready")
    assert control.predict("t", [1, 1, 1]) == [3, 3, 3]
