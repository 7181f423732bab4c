"""The objects that routes use. The control process wires them; no web framework is needed."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from maas.control.explanation.explain import Explainer
from maas.control.publishing.publish import Publisher
from maas.control.reconciliation.reconciler import Reconciler
from maas.control.usage_collector import UsageCollector
from maas.settings import Settings
from maas.storage.artifacts import ArtifactStore
from maas.storage.deployments import Deployments
from maas.storage.jobs import Jobs
from maas.storage.keys import Keys
from maas.storage.usage import UsageLedger
from maas.storage.versions import Versions


@dataclass(frozen=True)
class Stores:
    """The tables of the database, and the artifact store."""

    versions: Versions
    deployments: Deployments
    keys: Keys
    usage: UsageLedger
    jobs: Jobs
    artifacts: ArtifactStore
    database_name: str
    """URL of the database, without the password."""


@dataclass(frozen=True)
class Services:
    """Everything that a route may use."""

    settings: Settings
    stores: Stores
    publisher: Publisher
    reconciler: Reconciler
    collector: UsageCollector
    explainer: Explainer
    uploads: ThreadPoolExecutor
    """Threads that store uploaded files, one each."""
    started_at: float = field(default_factory=time.time)
    """Seconds since the epoch, UTC."""

    def close(self) -> None:
        """Releases the threads; work that has not started is cancelled."""
        self.explainer.close()
        self.uploads.shutdown(wait=False, cancel_futures=True)
