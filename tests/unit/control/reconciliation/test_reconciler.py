"""The reconciler's records of failures, with a launcher whose replicas never start."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from maas.control.api.views import deployment_view
from maas.control.reconciliation.launcher import LaunchedReplica
from maas.control.reconciliation.plans import Planner
from maas.control.reconciliation.reconciler import Reconciler, ReconcilerTimeouts
from maas.control.reconciliation.snapshot_file import SnapshotFile
from maas.domain.deployments import Deployment, ReplicaSpec, Scaling, Target
from maas.domain.errors import ArtifactCorrupt, MaasError
from maas.domain.models import File, Manifest, Task, Variant
from maas.domain.signature import Signature, TensorSpec
from maas.storage.database import Database
from maas.storage.deployments import Deployments
from maas.storage.keys import Keys
from maas.storage.versions import Versions

BACKOFF_S = 0.1


class FailingLauncher:
    """Records the time and specification of each start, and fails."""

    def __init__(self) -> None:
        self.starts: list[tuple[float, ReplicaSpec]] = []

    async def start(self, template: ReplicaSpec) -> LaunchedReplica:
        self.starts.append((time.monotonic(), template))
        raise ArtifactCorrupt("model.onnx is not what was published")

    async def find(self) -> list[LaunchedReplica]:
        return []

    def failure(self, replica_id: str) -> MaasError | None:
        return None

    def last_lines(self, replica_id: str) -> str:
        return ""

    def retire(self, replica_id: str) -> None:
        pass

    def forget(self, replica_id: str) -> None:
        pass


class Scene:
    def __init__(self, folder: Path) -> None:
        self.database = Database.open(f"sqlite:///{folder / 'maas.db'}")
        self.deployments = Deployments(self.database)
        self.versions = Versions(self.database)
        self.file = SnapshotFile(folder / "snapshot.json")
        self.launcher = FailingLauncher()
        tensor = TensorSpec("x", "FP32", (1,))
        signature = Signature((tensor,), (TensorSpec("y", "FP32", (1,)),), {"x": [1]})
        variant = Variant("onnx", "onnx", (File("model.onnx", "0" * 64, 1),))
        self.versions.publish(Manifest("m", Task.OTHER, signature, (variant,)))

    def deploy(self, replicas: int = 1, version: int = 1) -> Deployment:
        targets = (Target(version, "onnx"),)
        return self.deployments.put(Deployment("t", "m", targets, Scaling(replicas)))

    def run(self, check: Callable[[Reconciler], Awaitable[None]]) -> None:
        async def run_and_stop() -> None:
            reconciler = Reconciler(
                self.launcher,
                self.deployments,
                Keys(self.database),
                Planner(self.versions, 1.0),
                self.file,
                ReconcilerTimeouts(ready_s=5, hang_s=5, backoff_s=BACKOFF_S, drain_s=1),
            )
            await reconciler.start()
            running = asyncio.create_task(reconciler.run())
            await check(reconciler)
            await reconciler.stop()
            await running

        asyncio.run(run_and_stop())


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.database.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def test_failures_are_retried_at_once_and_then_with_backoff(scene: Scene) -> None:
    scene.deploy()

    async def check(reconciler: Reconciler) -> None:
        await until(lambda: len(scene.launcher.starts) == 5)
        times = [at for at, _ in scene.launcher.starts]
        pauses = [b - a for a, b in itertools.pairwise(times)]
        for pause, factor in zip(pauses[1:], (1, 2, 4), strict=False):
            assert pause >= factor * BACKOFF_S * 0.99
        view = deployment_view(reconciler.state, scene.deployments.get("t"))
        assert view["state"] == "failed" and view["ready"] == 0
        assert view["reason"] == "artifact_corrupt: model.onnx is not what was published"

        # Putting the deployment again restarts its replicas at once.
        starts = len(scene.launcher.starts)
        reconciler.clear_failures("t")
        await reconciler.changed()
        assert reconciler.state.replicas
        await until(lambda: len(scene.launcher.starts) >= starts + 2)

    scene.run(check)


def test_replicas_that_do_not_start_are_retried_one_at_a_time(scene: Scene) -> None:
    scene.deploy(replicas=10)

    async def check(reconciler: Reconciler) -> None:
        await until(lambda: len(scene.launcher.starts) == 13)
        times = [at for at, _ in scene.launcher.starts]
        # Ten together, one more at once, and then one after each pause.
        assert times[11] - times[10] >= BACKOFF_S * 0.99
        assert times[12] - times[11] >= 2 * BACKOFF_S * 0.99

    scene.run(check)


def test_a_deployment_of_an_unknown_version_fails_without_affecting_others(scene: Scene) -> None:
    scene.deploy()
    lost = Deployment("lost", "m", (Target(9, "onnx"),))
    scene.deployments.put(lost)

    async def check(reconciler: Reconciler) -> None:
        await until(lambda: scene.launcher.starts)
        view = deployment_view(reconciler.state, scene.deployments.get("lost"))
        assert view["state"] == "failed" and "version 9" in view["reason"]
        assert {spec.deployment for _, spec in scene.launcher.starts} == {"t"}

    scene.run(check)


def test_a_deployment_is_not_ready_before_a_change_is_applied(scene: Scene) -> None:
    scene.deploy(replicas=0)

    async def check(reconciler: Reconciler) -> None:
        def state() -> str:
            return str(deployment_view(reconciler.state, scene.deployments.get("t"))["state"])

        await until(lambda: state() == "stopped")
        scene.deploy(replicas=0)
        assert state() == "starting"
        await reconciler.changed()
        await until(lambda: state() == "stopped")

    scene.run(check)
