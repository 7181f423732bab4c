"""Engines that tests load in their own process wait as in a replica: threads of OpenMP sleep soon,
else a test beside others on the same cores takes minutes."""

import os

from maas.settings import GOMP_SPINS

os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPINS)
