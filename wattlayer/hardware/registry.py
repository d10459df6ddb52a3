"""Reading devices from TOML: every field is checked for its unit, its range and its source."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, nearest
from ..files import user_folder
from .device import Hardware

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("gpu", "cpu")
DTYPES = ("float32", "float64", "tf32", "float16", "bfloat16", "int8")

NUMBERS: dict[str, tuple[float, float, str]] = {
    "dram_bytes_per_s": (1e9, 1e14, "bytes/s, 933e9 for 933 GB/s"),
    "dram_bytes": (1e8, 1e13, "bytes, 24e9 for 24 GB"),
    "l2_bytes": (2**16, 2**34, "bytes, 25165824 for 24 MiB"),
    "l2_bytes_per_s": (1e10, 1e15, "bytes/s, 7.2e12 for 7.2 TB/s"),
    "units": (1, 1e5, "a whole number of multiprocessors, compute units or cores"),
    "clock_hz": (5e7, 1e10, "Hz, 1.44e9 for 1440 MHz"),
    "idle_w": (0.01, 5e3, "W"),
    "max_w": (0.1, 1e5, "W"),
    "launch_s": (1e-8, 1e-2, "s, 4e-6 for 4 us"),
}
"""Fields that hold one number: the least and the most that it can be, and its unit. Beyond that lies a slip of the unit."""

LARGEST = 10**18
"""Whole numbers beyond this are told by their digits: TOML writes larger ones than a float holds."""

FLOP_PER_S = (1e9, 1e17, "FLOP/s, 10.3e12 for 10.3 TFLOP/s")
OPTIONAL = {"dram_bytes", "l2_bytes_per_s", "transforms", "boards", "kind"}
FIELDS = ("title", "kind", "peak_flop_per_s", *NUMBERS, "transforms", "boards", "sources")

FLOP_PER_BYTE = (0.5, 1500.0)
BYTES_PER_J = (0.4e9, 25e9)
FLOP_PER_J = (1e9, 1e12)
LANES = (2.0, 8192.0)
"""Ratios that hold for every device sold so far: float32 FLOP per DRAM byte, DRAM bytes and float32 FLOP per joule at the
power limit, and float32 FLOP per unit and clock. A slip of 1000, or another device's figure, falls outside."""


def shipped_file() -> Path:
    """Return the registry that comes with wattlayer."""
    return Path(__file__).parent / "devices.toml"


def user_file() -> Path:
    """Return where a user's own devices are looked for."""
    return user_folder() / "hardware.toml"


def user_devices() -> dict[str, Hardware]:
    """Return the devices of the user's `hardware.toml`, none where there is no such file."""
    path = user_file()
    return read_devices(path) if path.is_file() else {}


def read_devices(path: Path) -> dict[str, Hardware]:
    """Return the devices of a TOML file by name; raise InputError naming file, device, field and unit of what is wrong."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # bytes that are no text, text that is no TOML, lists in lists without end
        raise InputError(f"{path} is not TOML: {error}") from None
    devices = {}
    for name, table in tables.items():
        try:
            devices[name] = _device(name, table)
        except InputError as error:
            raise InputError(f"{path}, [{name}]: {error}") from None
    return devices


def _device(name: str, table: Any) -> Hardware:
    if not isinstance(table, dict):
        raise InputError(f"{table!r} is not a device: write a table, [{name}]")
    for field in table:
        if field not in FIELDS:
            raise InputError(f"field {field!r} is not known{nearest(field, FIELDS)}")
    missing = [field for field in FIELDS if field not in table and field not in OPTIONAL]
    if missing:
        raise InputError(
            f"{missing[0]} is missing ({NUMBERS[missing[0]][2] if missing[0] in NUMBERS else 'see the shipped registry'})"
        )
    kind = table.get("kind", "gpu")
    if kind not in KINDS:
        raise InputError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    numbers: dict[str, Any] = {field: _number(field, table[field], NUMBERS[field]) for field in NUMBERS if field in table}
    device = Hardware(
        name=name, title=_text("title", table["title"]), kind=kind, peak_flop_per_s=_rates(table["peak_flop_per_s"]),
        boards=tuple(_text("boards", x) for x in _list("boards", table.get("boards", []))),
        transforms=_flag("transforms", table.get("transforms", True)),
        sources=_sources(table["sources"], {*numbers, "peak_flop_per_s", *({"transforms"} & set(table))}),
        **(numbers | {"units": int(numbers["units"])}),
    )  # fmt: skip
    _check_ratios(device)
    return device


def _number(field: str, value: Any, allowed: tuple[float, float, str]) -> float:
    least, most, unit = allowed
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{field} {value!r} is not a number ({unit})")
    if not least <= value <= most:
        told = f"of {len(str(abs(value)))} digits" if isinstance(value, int) and abs(value) > LARGEST else f"{value:g}"
        raise InputError(f"{field} {told} must lie between {least:g} and {most:g} ({unit})")
    if field == "units" and value != int(value):
        raise InputError(f"{field} {value:g} is not whole ({unit})")
    return float(value)


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{field} {value!r} is not text")
    return value


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{field} {value!r} is not true or false")
    return value


def _list(field: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{field} {value!r} is not a list")
    return value


def _rates(table: Any) -> tuple[tuple[str, float], ...]:
    if not isinstance(table, dict) or "float32" not in table:
        raise InputError(f"peak_flop_per_s {table!r} must name at least the float32 rate, {{ float32 = 10.3e12 }}")
    unknown = [dtype for dtype in table if dtype not in DTYPES]
    if unknown:
        raise InputError(f"peak_flop_per_s: {unknown[0]!r} is not one of {', '.join(DTYPES)}")
    return tuple((dtype, _number(f"peak_flop_per_s.{dtype}", rate, FLOP_PER_S)) for dtype, rate in table.items())


def _sources(entries: Any, numbers: set[str]) -> tuple[str, ...]:
    pairs = _list("sources", entries)
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) and x for x in pair)):
            raise InputError(f'sources: {pair!r} is not ["the fields", "where their numbers come from"]')
    named = [field for fields, _ in pairs for field in fields.split()]
    for field in sorted(numbers):
        if field not in named:
            raise InputError(f'{field} has no source: add ["{field}", "data sheet and table"] to sources, or "assumed: …"')
    idle = [field for field in named if field not in numbers]
    if idle:
        raise InputError(f"sources name {idle[0]!r}, which is not a number of this device")
    return tuple(f"{fields}: {text}" for fields, text in pairs)


def _check_ratios(device: Hardware) -> None:
    flop_per_s = device.peak("float32")
    ratios: Mapping[str, tuple[float, tuple[float, float]]] = {
        "float32 FLOP per byte of DRAM": (flop_per_s / device.dram_bytes_per_s, FLOP_PER_BYTE),
        "bytes of DRAM per joule at the limit": (device.dram_bytes_per_s / device.max_w, BYTES_PER_J),
        "float32 FLOP per joule at the limit": (flop_per_s / device.max_w, FLOP_PER_J),
        "float32 FLOP per unit and clock": (flop_per_s / device.units / device.clock_hz, LANES),
    }
    for title, (value, (least, most)) in ratios.items():
        if not least <= value <= most:
            raise InputError(f"{title} is {value:.3g}, of no device ever sold ({least:g} to {most:g}): check the units")
    if not device.idle_w < device.max_w:
        raise InputError(f"idle_w {device.idle_w:g} must be below max_w {device.max_w:g}")
