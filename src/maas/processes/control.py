"""The control process: the API over a unix socket, and the reconciler.

    python -m maas.processes.control --settings-json FILE [--lifeline FD]
        [--log FILE BYTES FILES]

The first routing snapshot is written and the socket is open before the web framework is imported.
Gateways can answer at once, and requests to control wait in the queue of the socket.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvloop

from maas.control.admin_key import ensure_admin_key
from maas.control.explanation.explain import Explainer
from maas.control.publishing.publish import Publisher
from maas.control.reconciliation.launcher import LocalLauncher
from maas.control.reconciliation.plans import Planner
from maas.control.reconciliation.reconciler import Reconciler, ReconcilerTimeouts
from maas.control.reconciliation.snapshot_file import SnapshotFile
from maas.control.services import Services, Stores
from maas.control.usage_collector import UsageCollector
from maas.domain.errors import Conflict, InvalidInput, MaasError
from maas.processes.lifeline import stop_event
from maas.processes.output import add_log_argument, log_folder, start_logging
from maas.processes.socket_paths import check_socket_paths
from maas.settings import ConfigurationError, Settings
from maas.storage.artifacts import S3Options, open_artifacts
from maas.storage.database import Database
from maas.storage.deployments import Deployments
from maas.storage.files import make_own_dir
from maas.storage.jobs import Jobs
from maas.storage.keys import Keys
from maas.storage.usage import UsageLedger
from maas.storage.versions import Versions

log = logging.getLogger(__name__)

BAD_CONFIGURATION = 78
"""Exit status, EX_CONFIG of sysexits.h."""
THREADS = 32
UPLOAD_THREADS = 8
ABANDONED_AFTER_S = 24 * 3600.0
"""Age of a staged upload that is removed at the start."""
LOST_AFTER_S = 30.0
"""Time without a report after which a job is lost."""
HOUSEKEEPING_EVERY_S = 5.0


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--settings-json", type=Path, required=True)
    parser.add_argument("--lifeline", type=int, default=None)
    add_log_argument(parser)
    arguments = parser.parse_args()
    start_logging("control", arguments.log)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.umask(0o077)
    settings = Settings.from_json(arguments.settings_json.read_text())
    try:
        uvloop.run(Control(settings, arguments.lifeline).run())
    except (ConfigurationError, Conflict, InvalidInput) as error:
        log.error("%s", error)
        return BAD_CONFIGURATION
    except MaasError as error:
        log.error("control cannot run: %s", error)
        return 1
    except Exception:
        log.exception("control failed")
        return 1
    return 0


class Control:
    """Creates the parts of control, runs them, and stops them in order."""

    def __init__(self, settings: Settings, lifeline: int | None) -> None:
        self._settings = settings
        self._lifeline = lifeline
        check_socket_paths(settings.run_dir)
        for folder in (settings.run_dir, settings.log_dir, settings.usage_dir, settings.cache_dir):
            make_own_dir(folder)
        self._database = Database.open(settings.database_url)
        self._artifacts = open_artifacts(settings.artifacts_url, s3_options(settings))
        self._versions = Versions(self._database)
        self._deployments = Deployments(self._database)
        self._keys = Keys(self._database)
        self._jobs = Jobs(self._database)
        self._usage = UsageLedger(self._database)
        ensure_admin_key(self._keys, settings.admin_key_file)

    async def run(self) -> None:
        """Runs until SIGTERM or the end of the lifeline."""
        stop = stop_event(self._lifeline)
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="control")
        asyncio.get_running_loop().set_default_executor(threads)
        reconciler = self._reconciler()
        services = self._services(reconciler)
        collector = services.collector
        listening = listen(self._settings.control_socket)
        await reconciler.start()
        log.info("control is ready, process %d", os.getpid())
        background = [
            asyncio.create_task(loop)
            for loop in (reconciler.run(), collector.run(), self._housekeeping())
        ]
        serving = asyncio.create_task(self._serve(listening, services, stop))
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait(
                {*background, serving, stopping}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {stopping}:
                # These tasks end with an error only; raise it, so that control is restarted.
                task.result()
        finally:
            for task in background:
                task.cancel()
            stopping.cancel()
        log.info("stopping")
        await asyncio.gather(reconciler.stop(), serving)
        try:
            await collector.collect()
        except MaasError as error:
            # Nothing is lost: the counters stay in their files.
            log.warning("the latest usage was not recorded: %s", error)
        services.close()
        self._database.close()

    def _services(self, reconciler: Reconciler) -> Services:
        settings = self._settings
        stores = Stores(
            self._versions,
            self._deployments,
            self._keys,
            self._usage,
            self._jobs,
            self._artifacts,
            self._database.url,
        )
        publisher = Publisher(
            self._versions, self._artifacts, settings.cache_dir, settings.server.max_file_bytes
        )
        collector = UsageCollector(self._usage, settings.usage_dir)
        explainer = Explainer(reconciler, self._background_of)
        uploads = ThreadPoolExecutor(UPLOAD_THREADS, thread_name_prefix="upload")
        return Services(settings, stores, publisher, reconciler, collector, explainer, uploads)

    def _background_of(self, model: str, version: int) -> dict[str, Any] | None:
        background = self._versions.get(model, version).manifest.metadata.get("background")
        return background if isinstance(background, dict) else None

    def _reconciler(self) -> Reconciler:
        settings = self._settings
        launcher = LocalLauncher(
            settings.run_dir, log_folder(settings), settings.cache_dir, self._artifacts,
            self._lifeline, settings.serving.engines_file,
        )  # fmt: skip
        timeouts = ReconcilerTimeouts(
            ready_s=settings.serving.ready_timeout_s,
            hang_s=settings.serving.hang_timeout_s,
            backoff_s=settings.serving.crash_backoff_s,
            drain_s=settings.server.drain_s,
        )
        planner = Planner(self._versions, settings.server.drain_s)
        snapshot_file = SnapshotFile(settings.snapshot_file)
        return Reconciler(launcher, self._deployments, self._keys, planner, snapshot_file, timeouts)

    async def _serve(
        self, listening: socket.socket, services: Services, stop: asyncio.Event
    ) -> None:
        serve = await asyncio.to_thread(_import_server)
        await serve(services, listening, stop)

    async def _housekeeping(self) -> None:
        """Removes abandoned uploads once, and marks lost jobs periodically."""
        try:
            await asyncio.to_thread(self._artifacts.sweep, ABANDONED_AFTER_S)
        except MaasError as error:
            log.warning("abandoned uploads were not removed: %s", error)
        while True:
            try:
                lost = await asyncio.to_thread(self._jobs.mark_lost, LOST_AFTER_S)
            except MaasError as error:
                log.warning("jobs cannot be checked: %s", error)
            else:
                if lost:
                    log.warning("%d jobs stopped reporting and are lost", lost)
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)


def _import_server() -> Callable[[Services, socket.socket, asyncio.Event], Awaitable[None]]:
    # FastAPI and uvicorn take longer to import than the rest of control takes to start.
    from maas.control.server import serve  # noqa: PLC0415

    return serve


def s3_options(settings: Settings) -> S3Options:
    storage = settings.storage
    return S3Options(
        endpoint=storage.s3_endpoint,
        region=storage.s3_region,
        access_key_id=storage.s3_access_key_id,
        secret_access_key=storage.s3_secret_access_key,
        staging=settings.home_path / "staging",
    )


def listen(path: Path) -> socket.socket:
    """A unix socket that only this user can open. Replaces that of a previous control process."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    path.chmod(0o600)
    listening.listen(1024)
    return listening


if __name__ == "__main__":
    sys.exit(main())
