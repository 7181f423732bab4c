"""Energy, where the machine has a meter that this user may read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyMeter:
    """Running Average Power Limit counters of every processor package (Linux powercap)."""

    zones: tuple[Path, ...]
    note: str
    """How energy is read, or why it is not."""

    @classmethod
    def find(cls, root: Path = POWERCAP) -> EnergyMeter:
        """The packages' counters; none, with the reason, where there is nothing to read."""
        zones = sorted(p for p in root.glob("*rapl:*") if p.name.count(":") == 1)
        if not zones:
            return cls((), f"this machine shows no energy meter in {root}")
        try:
            for zone in zones:
                int((zone / "energy_uj").read_text())
                int((zone / "max_energy_range_uj").read_text())
        except PermissionError:
            return cls((), f"{zones[0]}/energy_uj may be read by root only")
        except (OSError, ValueError) as wrong:
            return cls((), f"{zones[0]} cannot be read: {wrong}")
        return cls(tuple(zones), f"{len(zones)} package counters in {root}, all that runs included")

    def read(self) -> list[int]:
        """Microjoules of each package since an unknown start."""
        return [int((zone / "energy_uj").read_text()) for zone in self.zones]

    def joules_since(self, before: list[int]) -> float:
        """Between an earlier `read` and now; a counter that has wrapped around once is right."""
        total = 0
        for zone, start, end in zip(self.zones, before, self.read(), strict=True):
            if end < start:
                end += int((zone / "max_energy_range_uj").read_text())
            total += end - start
        return total / 1e6
