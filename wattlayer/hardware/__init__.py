"""The hardware registry: one frozen record per device, each number with its source, read from `devices.toml`.

Peak rates are dense (no structured sparsity) at boost clock, boards as sold. A `hardware.toml` in the user's folder adds
devices in the same form. To add a device, add a table to `devices.toml`.
"""

from __future__ import annotations

from ..errors import InputError, nearest
from .device import Hardware
from .registry import read_devices, shipped_file, user_devices, user_file

__all__ = ["HARDWARE", "Hardware", "find_hardware", "known_hardware", "registry_name", "user_file"]

HARDWARE: dict[str, Hardware] = read_devices(shipped_file())
"""Every device that wattlayer knows by name, without those that the user added."""


def known_hardware() -> dict[str, Hardware]:
    """Return the registry with the devices of the user's `hardware.toml`; raise InputError where one has a name that is taken."""
    added = user_devices()
    taken = sorted(set(added) & set(HARDWARE))
    if taken:
        raise InputError(f"{user_file()}: {taken[0]!r} is a device of wattlayer's own registry: give yours another name")
    return HARDWARE | added


def find_hardware(name: str) -> Hardware:
    """Return the device called `name`, or raise InputError with the nearest names."""
    if name in HARDWARE:
        return HARDWARE[name]
    known = known_hardware()
    if name in known:
        return known[name]
    alike = [x for x in known if len(name) > 1 and (x.startswith(name) or name.lower() == x)]
    told = f"; nearest: {', '.join(alike)}" if alike else nearest(name, list(known))
    raise InputError(f"hardware {name!r} is not known{told or '; `wattlayer hardware` lists what is'}; {user_file()} may add it")


def registry_name(board: str) -> str | None:
    """Return the registry's name of a `board` as its driver or system calls it, or None."""
    for device in known_hardware().values():
        for own in device.boards:
            if own in (board, f"NVIDIA {board}") or (device.kind == "cpu" and board.startswith(own)):
                return device.name
    return None
