"""Everything that routes may use, wired once by the control process; no web framework here."""

from __future__ import annotations

import time
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
    """The nouns in the database, and the files."""

    versions: Versions
    deployments: Deployments
    keys: Keys
    usage: UsageLedger
    jobs: Jobs
    artifacts: ArtifactStore
    database_name: str
    """Where the database is, without a password."""


@dataclass(frozen=True)
class Services:
    settings: Settings
    stores: Stores
    publisher: Publisher
    reconciler: Reconciler
    collector: UsageCollector
    explainer: Explainer
    started_at: float = field(default_factory=time.time)
