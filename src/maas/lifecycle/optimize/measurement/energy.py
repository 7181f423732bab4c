"""Energy counters of the processor, where the machine has some that this user may read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyMeter:
    """Running Average Power Limit counters of all processor packages (Linux powercap)."""

    zones: tuple[Path, ...]
    note: str
    """Source of the energy figures, or the reason why there are none."""

    @classmethod
    def find(cls, root: Path = POWERCAP) -> EnergyMeter:
        """A meter of all packages; one without zones, with the reason, if none can be read."""
        zones = sorted(p for p in root.glob("*rapl:*") if p.name.count(":") == 1)
        if not zones:
            return cls((), f"this machine has no energy meter in {root}")
        try:
            for zone in zones:
                int((zone / "energy_uj").read_text())
                int((zone / "max_energy_range_uj").read_text())
        except PermissionError:
            return cls((), f"only root may read {zones[0]}/energy_uj")
        except (OSError, ValueError) as error:
            return cls((), f"{zones[0]} cannot be read: {error}")
        note = f"{len(zones)} package counters in {root}; they include all other processes"
        return cls(tuple(zones), note)

    def read(self) -> list[int]:
        """Counter of each package in microjoules; the zero point is arbitrary."""
        return [int((zone / "energy_uj").read_text()) for zone in self.zones]

    def joules_since(self, start: list[int]) -> float:
        """Energy since an earlier `read`. A counter may have wrapped around once."""
        total = 0
        for zone, before, after in zip(self.zones, start, self.read(), strict=True):
            if after < before:
                after += int((zone / "max_energy_range_uj").read_text())
            total += after - before
        return total / 1e6
