"""RAPL through Linux' powercap tree: the energy of all CPU packages.

Source: Documentation/power/powercap/powercap.rst and the `intel-rapl` control type: every package is a zone
`intel-rapl:N` with `energy_uj`, which wraps at `max_energy_range_uj`. AMD processors appear in the same tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import MeterError
from . import Instrument, Unavailable

ROOT = Path("/sys/class/powercap")


@dataclass
class _Zone:
    """One package: its counter file, where it wraps, and the joules seen so far."""

    path: Path
    range_uj: int
    last_uj: int
    total_uj: int = 0

    def advance(self) -> int:
        reading_uj = _read(self.path / "energy_uj")
        step_uj = reading_uj - self.last_uj
        # a counter that reads less than before has wrapped once: readings are far closer together than one turn
        self.total_uj += step_uj if step_uj >= 0 else step_uj + self.range_uj
        self.last_uj = reading_uj
        return self.total_uj


class Rapl:
    """The sum of the package counters, free of wrap-around while read at least once a turn (minutes)."""

    name = "rapl"
    refresh_s = 0.001
    """About 1 ms (powercap's documentation)."""

    def __init__(self, packages: list[Path]) -> None:
        self._zones = [_Zone(p, _read(p / "max_energy_range_uj"), _read(p / "energy_uj")) for p in packages]

    def energy_j(self) -> float:
        try:
            return sum(zone.advance() for zone in self._zones) * 1e-6
        except PermissionError as error:
            raise MeterError(f"{error.filename} may no longer be read") from None


def open_rapl(root: Path = ROOT) -> Instrument:
    """Open every package under `root`; raise Unavailable where there is none or it may not be read."""
    packages = sorted(p for p in root.glob("intel-rapl:*") if p.name.count(":") == 1 and _is_package(p))
    if not packages:
        raise Unavailable(f"{root} has no intel-rapl package: the kernel lacks the powercap driver, or this is a virtual machine")
    try:
        meter = Rapl(packages)
    except PermissionError as error:
        cure = f"run as root, or until the next boot: sudo chmod a+r {root}/intel-rapl:*/energy_uj"
        raise Unavailable(f"{error.filename} may be read by root only ({cure})") from None
    except MeterError as error:
        raise Unavailable(str(error)) from None
    names = [_text(p / "name") or p.name for p in packages]
    return Instrument("rapl", (meter,), description={"packages": names})


def _is_package(zone: Path) -> bool:
    """The tree also holds `psys` (the whole platform), which would count the packages twice."""
    return (_text(zone / "name") or "package").startswith("package")


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _read(path: Path) -> int:
    """Return a counter file's number; PermissionError passes, anything else that fails is a MeterError."""
    try:
        return int(path.read_text())
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        raise MeterError(f"{path} cannot be read as a number: {error}") from None
