"""The registry: every number has a source, and none is off by a factor of a thousand."""

from __future__ import annotations

import pytest

from wattlayer.errors import InputError
from wattlayer.hardware import HARDWARE, Hardware, find_hardware

DEVICES = pytest.mark.parametrize("device", HARDWARE.values(), ids=HARDWARE)
GPUS = pytest.mark.parametrize("device", [d for d in HARDWARE.values() if d.kind == "gpu"], ids=lambda d: d.name)


@DEVICES
def test_numbers_have_sources(device: Hardware):
    assert device.sources and all(len(source) > 10 for source in device.sources)
    text = " ".join(device.sources)
    for word in ("idle_w", "launch_s", "rate"):
        assert word in text
    assert device.title and device.name == device.name.lower()


@DEVICES
def test_ratios_are_plausible(device: Hardware):
    assert 0.5e9 < device.dram_bytes_per_s / device.max_w < 20e9
    assert 2 <= device.peak("float32") / device.units / device.clock_hz <= 8192
    assert 1e9 < device.peak("float32") / device.max_w < 1e12
    assert 1 < device.peak("float32") / device.dram_bytes_per_s < 1000
    assert 2**17 < device.l2_bytes < 2**30
    assert 0.1e9 < device.clock_hz < 6e9
    assert 0 < device.idle_w < device.max_w / 2
    assert 1e-7 < device.launch_s < 1e-4


@DEVICES
def test_narrower_types_are_not_slower(device: Hardware):
    rates = dict(device.peak_flop_per_s)
    assert set(rates) <= {"float32", "tf32", "float16", "bfloat16", "int8"}
    assert device.peak("float32") <= device.peak("float32", tf32=True) <= device.peak("float16") <= max(rates.values())
    assert device.peak("bfloat16") <= device.peak("float16")


@GPUS
def test_gpus_have_64_or_128_float32_lanes_a_multiprocessor(device: Hardware):
    lanes = device.peak("float32") / device.units / device.clock_hz / 2
    # the H100's clock is that of its tensor cores, 8 % below the one its float32 rate is stated at
    assert lanes in (pytest.approx(64, rel=0.1), pytest.approx(128, rel=0.1))


def test_a_type_without_a_rate_runs_as_float32():
    assert HARDWARE["gtx1070"].peak("float16") == HARDWARE["gtx1070"].peak("float32")
    assert HARDWARE["a30"].peak("float64") == HARDWARE["a30"].peak("float32")


def test_tf32_is_faster_only_where_the_device_has_it():
    assert HARDWARE["a30"].peak("float32", tf32=True) == 82e12
    assert HARDWARE["a30"].peak("float16", tf32=True) == 165e12
    assert HARDWARE["rtx2080ti"].peak("float32", tf32=True) == HARDWARE["rtx2080ti"].peak("float32")


@pytest.mark.parametrize("name", HARDWARE)
def test_devices_are_found_by_name(name):
    assert find_hardware(name).name == name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a31", "nearest: .*a30"),
        ("rtx2080", "nearest: .*rtx2080ti"),
        ("A30", "a30"),
        ("tpu-v9", "known: a30, .*xeon"),
        ("", "known: "),
    ],
)
def test_an_unknown_name_is_told_what_there_is(name, told):
    with pytest.raises(InputError, match=f"hardware {name!r} is not known; {told}" if told != "a30" else told):
        find_hardware(name)
