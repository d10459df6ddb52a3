"""Meters against fake powercap trees, a fake NVML and a fake Zeus: what they read, and what they say when they cannot."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_nvml import FUNCTION_NOT_FOUND, LIBRARY_NOT_FOUND, NO_PERMISSION, NOT_SUPPORTED, FakeNvml
from rig import Device, SimulatedWorkload

import wattlayer
from wattlayer.errors import InputError, MeterError
from wattlayer.measure.characterise import Bench, characterise, idle_powers
from wattlayer.meter import Unavailable, zeus
from wattlayer.meter.assumed import AssumedPower, open_assumed
from wattlayer.meter.choose import choose, openers
from wattlayer.meter.nvml import open_nvml
from wattlayer.meter.rapl import open_rapl
from wattlayer.meter.zeus import open_zeus

PACKAGE = Path(wattlayer.__file__).parent


# --- RAPL


def zone(root: Path, name: str, energy_uj: int, range_uj: int = 1_000_000, label: str = "package-0") -> Path:
    path = root / name
    path.mkdir()
    (path / "name").write_text(label + "\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path


def test_rapl_sums_packages_and_leaves_out_their_parts_and_the_platform(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", 100)
    second = zone(tmp_path, "intel-rapl:1", 200, label="package-1")
    part = zone(tmp_path, "intel-rapl:0:0", 0, label="core")
    platform = zone(tmp_path, "intel-rapl:2", 0, label="psys")
    meter = open_rapl(tmp_path).meters[0]
    assert meter.energy_j() == 0.0
    for path, energy_uj in ((first, 400_100), (second, 500_200), (part, 999_000), (platform, 999_000)):
        (path / "energy_uj").write_text(str(energy_uj))
    assert meter.energy_j() == pytest.approx(0.9)


def test_rapl_goes_on_through_a_wrap(tmp_path):
    path = zone(tmp_path, "intel-rapl:0", 900_000)
    meter = open_rapl(tmp_path).meters[0]
    (path / "energy_uj").write_text("100000")
    assert meter.energy_j() == pytest.approx(0.2)
    (path / "energy_uj").write_text("300000")
    assert meter.energy_j() == pytest.approx(0.4)


def test_rapl_says_what_is_missing(tmp_path):
    with pytest.raises(Unavailable, match=r"has no intel-rapl package.*virtual machine"):
        open_rapl(tmp_path)


def test_rapl_explains_a_file_that_only_root_may_read(tmp_path, monkeypatch):
    path = zone(tmp_path, "intel-rapl:0", 1)
    text_of = Path.read_text

    def read_text(self: Path, *args: object, **kwargs: object) -> str:
        if self == path / "energy_uj":  # as root every file can be read, so the refusal is played
            raise PermissionError(13, "Permission denied", str(self))
        return text_of(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(
        Unavailable, match=r"energy_uj may be read by root only \(run as root, or until the next boot: sudo chmod a\+r"
    ):
        open_rapl(tmp_path)


def test_rapl_reports_a_file_that_is_no_number(tmp_path):
    path = zone(tmp_path, "intel-rapl:0", 1)
    meter = open_rapl(tmp_path).meters[0]
    (path / "energy_uj").write_text("")
    with pytest.raises(MeterError, match="energy_uj cannot be read as a number"):
        meter.energy_j()


# --- NVML


def opened(nvml: FakeNvml, clock: Device | None = None):
    return open_nvml(nvml.UUID, None, nvml, clock or Device())


def test_nvml_offers_counter_samples_and_power():
    instrument = opened(FakeNvml())
    assert [m.name for m in instrument.meters] == ["nvml-counter", "nvml-samples", "nvml-power"]
    assert instrument.meters[0].energy_j() == pytest.approx(1000.0)
    assert instrument.power is instrument.meters[2]
    state = instrument.board.state()
    assert (state.temperature_c, state.clock_hz, state.power_capped_s, state.thermal_s) == (55, 1755e6, 5.0, 2.0)
    assert (state.memory_clock_hz, state.processes) == (2619e6, 1)
    assert instrument.description["power_limit_w"] == 700.0
    assert FakeNvml.UUID not in str(instrument.description) and len(instrument.description["board"]) == 16


@pytest.mark.parametrize(("slow", "expected"), [("field", "function"), ("function", "field")])
def test_nvml_reads_the_whole_gpus_counter_by_the_cheaper_of_two_functions(slow, expected):
    clock, read = Device(), Counter()

    class Slow(FakeNvml):
        def nvmlDeviceGetFieldValues(self, handle, fields):
            read["field"] += 1
            clock.sleep(4e-3 if slow == "field" else 1e-3)
            return super().nvmlDeviceGetFieldValues(handle, fields)

        def nvmlDeviceGetTotalEnergyConsumption(self, handle):
            read["function"] += 1
            clock.sleep(4e-3 if slow == "function" else 1e-3)
            return super().nvmlDeviceGetTotalEnergyConsumption(handle)

    counter = opened(Slow(), clock).meters[0]
    read.clear()
    assert counter.energy_j() == 1000.0 and set(read) == {expected}


def test_nvml_reads_all_counters_of_a_boards_state_at_once():
    nvml = FakeNvml()
    board = opened(nvml).board
    nvml.called.clear()
    state = board.state()
    assert (state.power_capped_s, state.thermal_s) == (5.0, 2.0)
    assert nvml.called.count("nvmlDeviceGetFieldValues") == 1


def test_nvml_binds_by_identity_never_by_index():
    nvml = FakeNvml()
    open_nvml("GPU-other", nvml.PCI, nvml, Device())  # the UUID is unknown to NVML, the bus id is not
    assert not any("ByIndex" in name for name in nvml.called)
    with pytest.raises(Unavailable, match="GPU-other: Not Found; 0000: Not Found"):
        open_nvml("GPU-other", "0000", nvml, Device())


def test_nvml_power_is_a_counter_that_steps_when_the_reading_refreshes():
    device, watts = Device(), [300.0]
    meter = opened(FakeNvml(lambda: (1.0, watts[0])), device).meters[2]
    device.sleep(0.1)
    assert meter.energy_j() == 0.0  # the same reading still holds
    watts[0] = 400.0
    assert meter.energy_j() == pytest.approx(40.0, rel=1e-3)
    device.sleep(2.0)  # it stands still while the device idles: those two seconds are not the next reading's
    watts[0] = 900.0
    assert meter.energy_j() == pytest.approx(40.0 + 1.9 * 400.0 + 0.1 * 900.0, rel=1e-3)


def test_nvml_samples_are_integrated_over_their_own_time_stamps():
    nvml = FakeNvml()
    meter = opened(nvml).meters[1]
    assert meter.energy_j() == 0.0
    nvml.samples += [(1_020_000, 200_000), (1_040_000, 400_000)]
    assert meter.energy_j() == pytest.approx(0.02 * 200 + 0.02 * 400)
    assert meter.energy_j() == pytest.approx(12.0)


def test_nvml_falls_back_to_the_module_scope_and_records_it():
    instrument = opened(FakeNvml(scope=1))
    assert instrument.description["counter_scope"] == instrument.description["power_scope"] == "module"


def test_nvml_compares_no_gpus_counter_with_the_power_of_its_module():
    class Superchip(FakeNvml):
        def _field(self, field, scope):
            self.scope = 1 if field == 186 else 0
            return super()._field(field, scope)

    instrument = opened(Superchip())
    assert (instrument.description["counter_scope"], instrument.description["power_scope"]) == ("gpu", "module")
    assert instrument.power is None and [m.name for m in instrument.meters] == ["nvml-counter", "nvml-samples", "nvml-power"]


def test_an_nvml_counter_that_never_counted_is_left_out():
    instrument = opened(FakeNvml(lambda: (0.0, 300.0)))
    assert [m.name for m in instrument.meters] == ["nvml-samples", "nvml-power"] and instrument.power is None
    assert "the energy counter reads 0 J" in instrument.description["unavailable"]


@pytest.mark.parametrize(
    ("fault", "names"),
    [
        ({83: NOT_SUPPORTED, "nvmlDeviceGetTotalEnergyConsumption": NOT_SUPPORTED}, ["nvml-samples", "nvml-power"]),
        ({186: NOT_SUPPORTED}, ["nvml-counter", "nvml-samples"]),
        ({"nvmlDeviceGetSamples": NO_PERMISSION}, ["nvml-counter", "nvml-power"]),
        ({"nvmlDeviceGetFieldValues": FUNCTION_NOT_FOUND}, ["nvml-counter", "nvml-samples"]),
    ],
)
def test_nvml_does_without_what_is_missing(fault, names):
    instrument = opened(FakeNvml(refuse=fault))
    assert [m.name for m in instrument.meters] == names
    assert instrument.description["unavailable"]


def test_nvml_takes_power_usage_only_where_it_is_instantaneous():
    assert [m.name for m in opened(FakeNvml(refuse={186: NOT_SUPPORTED}, architecture=7)).meters][-1] == "nvml-power"
    assert [m.name for m in opened(FakeNvml(refuse={186: NOT_SUPPORTED}, architecture=9)).meters][-1] == "nvml-samples"
    ada = FakeNvml(refuse={186: NOT_SUPPORTED}, architecture=8)  # NVML_DEVICE_ARCH_ADA: an average over a second
    assert [m.name for m in opened(ada).meters][-1] == "nvml-samples"


def test_nvml_power_usage_is_in_milliwatts():
    device, watts = Device(), [300.0]
    meter = opened(FakeNvml(lambda: (1.0, watts[0]), refuse={186: NOT_SUPPORTED}, architecture=7), device).meters[2]
    device.sleep(0.1)
    watts[0] = 400.0
    assert meter.energy_j() == pytest.approx(40.0, rel=1e-3)


@pytest.mark.parametrize(
    ("refuse", "missing", "words"),
    [
        ({"nvmlInit": LIBRARY_NOT_FOUND}, (), "NVML does not start: NVML Shared Library Not Found"),
        ({83: NO_PERMISSION, 186: NO_PERMISSION}, (), r"ask the administrator for access to GPU counters, or run as root"),
        ({83: NOT_SUPPORTED, 186: NOT_SUPPORTED}, (), "Not Supported by this GPU or driver"),
        ({}, ("nvmlDeviceGetFieldValues",), "has no nvmlDeviceGetFieldValues: pip install -U nvidia-ml-py"),
    ],
)
def test_nvml_says_why_it_cannot(refuse, missing, words):
    others = dict.fromkeys(("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetSamples"), FUNCTION_NOT_FOUND)
    with pytest.raises(Unavailable, match=words):
        opened(FakeNvml(refuse=others | refuse, missing=missing))


def test_nvml_without_a_board_uuid_has_no_board_hash():
    assert opened(FakeNvml(refuse={"nvmlDeviceGetUUID": NOT_SUPPORTED})).description["board"] is None


def examined(read_j):
    """Characterise a fake NVML whose counter is `read_j(joules, reads)` of a simulated device."""
    device, reads = Device(seed=3), [0]

    def read() -> tuple[float, float]:
        joules, watts = device.read()
        reads[0] += 1
        return read_j(joules, reads[0]), watts

    instrument = opened(FakeNvml(read), device)
    bench = Bench(instrument, device, SimulatedWorkload(device, [(4e-4, 400.0)]))
    return characterise(bench, idle_powers(instrument, device))


def test_a_right_nvml_counter_is_chosen():
    meter, character = examined(lambda joules, _: joules)
    assert meter.name == "nvml-counter" and not character.refused
    assert character.meter.ratio_to_power == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("read_j", "words"),
    [
        (lambda joules, _: joules / 6, r"nvml-counter: it reads 0\.16\d of the integrated instantaneous power"),
        (lambda joules, reads: 1000.0, "nvml-counter: it stepped 0 times"),
        (lambda joules, reads: 50_000.0 - joules, "nvml-counter: it ran backwards"),
    ],
)
def test_a_wrong_nvml_counter_is_passed_over_and_told(read_j, words):
    meter, character = examined(read_j)
    assert meter.name == "nvml-power"
    assert any(re.search(words, reason) for reason in character.refused)


# --- Zeus, assumed power, and the choice


def test_zeus_reads_millijoules_of_an_accelerator_in_both_spellings():
    old = SimpleNamespace(getTotalEnergyConsumption=lambda index: 2500.0)
    new = SimpleNamespace(get_total_energy_consumption=lambda index: 3500.0)
    for gpus, joules in ((old, 2.5), (new, 3.5)):
        instrument = open_zeus(0, lambda gpus=gpus: gpus, lambda: None)
        assert instrument.meters[0].energy_j() == joules and instrument.description == {"zeus_source": "zeus-gpu"}


def test_zeus_falls_back_to_the_chip_and_counts_no_part_twice():
    def no_gpu():
        raise RuntimeError("no supported GPU")

    parts = SimpleNamespace(cpu_total_mj=100, efficiency_cores_mj=[60, 40], gpu_mj=200, dram_mj=None)
    soc = SimpleNamespace(getTotalEnergyConsumption=lambda: parts)
    assert open_zeus(0, no_gpu, lambda: soc).meters[0].energy_j() == pytest.approx(0.3)
    apple = SimpleNamespace(cpu_total_mj=1000, dram_mj=200, gpu_mj=30, gpu_sram_mj=4, ane_mj=5)
    jetson = SimpleNamespace(total_energy_mj=2000, cpu_total_mj=1000, gpu_mj=700)
    for record, joules in ((apple, 1.239), (jetson, 2.0)):
        chip = SimpleNamespace(getTotalEnergyConsumption=lambda record=record: record)
        assert open_zeus(0, no_gpu, lambda chip=chip: chip).meters[0].energy_j() == pytest.approx(joules)
    empty = SimpleNamespace(getTotalEnergyConsumption=lambda: SimpleNamespace(cpu_total_mj=None))
    with pytest.raises(Unavailable, match=r"no supported GPU.*reports no energy"):
        open_zeus(0, no_gpu, lambda: empty)


def test_assumed_power_is_time_times_the_stated_watts_and_labelled():
    device = Device()
    instrument = open_assumed(50.0, device)
    device.sleep(2.0)
    assert instrument.meters[0].energy_j() == pytest.approx(100.0)
    assert instrument.label == "assumed-power" and AssumedPower.name == "assumed-power"
    with pytest.raises(Unavailable, match="must be above 0"):
        open_assumed(0.0)


def refusing(reason: str):
    def open_none():
        raise Unavailable(reason)

    return open_none


def test_no_meter_names_each_that_was_tried_and_why():
    known = {"nvml": refusing("no driver"), "zeus": refusing("Zeus is not installed"), "rapl": refusing("no zone")}
    with pytest.raises(MeterError) as raised:
        choose("auto", "cuda", known)
    text = str(raised.value)
    assert "nvml is unavailable, because no driver; zeus is unavailable, because Zeus is not installed" in text
    assert "rapl" not in text and "--assumed-power-w" in text and "\n" not in text


def test_the_first_available_meter_is_taken_and_a_typo_is_told():
    known = {"rapl": refusing("no zone"), "zeus": lambda: open_assumed(1.0)}
    assert choose("auto", "cpu", known).name == "assumed-power"
    both = {name: lambda watts=watts: open_assumed(watts) for name, watts in (("zeus", 1.0), ("rapl", 2.0), ("nvml", 3.0))}
    first = {device: choose("auto", device, both).description["assumed_power_w"] for device in ("cpu", "cuda")}
    assert first == {"cpu": 2.0, "cuda": 3.0}, "the device's own before Zeus"
    with pytest.raises(InputError, match="meter 'nvm' is not known; nearest: nvml"):
        choose("nvm", "cuda", openers())


def test_a_meter_of_another_device_is_refused():
    for wanted, device, told in (("rapl", "cuda", "measures a cpu device"), ("nvml", "cpu", "measures a cuda device")):
        with pytest.raises(InputError, match=f"meter '{wanted}' {told}, and a {device} device is measured here"):
            choose(wanted, device, openers())


def test_zeus_reads_the_accelerator_that_is_measured_and_none_for_a_processor(monkeypatch):
    read = SimpleNamespace(get_total_energy_consumption=lambda index: 1000.0 * (index + 1))
    soc = SimpleNamespace(get_total_energy_consumption=lambda: SimpleNamespace(total_energy_mj=7000.0))
    monkeypatch.setattr(zeus, "_import_zeus", lambda: (lambda: read, lambda: soc))
    joules = {index: choose("zeus", "cuda", openers(index=index)).meters[0].energy_j() for index in (0, 1)}
    assert joules == {0: 1.0, 1: 2.0}
    on_cpu = choose("auto", "cpu", {**openers(index=None), "rapl": refusing("no zone")})
    assert on_cpu.description == {"zeus_source": "zeus-soc"} and on_cpu.meters[0].energy_j() == 7.0


def test_a_board_cut_into_instances_says_so():
    nvml = FakeNvml()
    assert opened(nvml).description["mig"] is False
    nvml.nvmlDeviceGetMigMode = lambda handle: [1, 1]
    assert opened(nvml).description["mig"] is True


def test_usage_of_ga10x_is_an_average():
    for capability, last in (([8, 0], "nvml-power"), ([8, 6], "nvml-samples"), ([8, 7], "nvml-samples")):
        nvml = FakeNvml(refuse={186: NOT_SUPPORTED}, architecture=7)
        nvml.nvmlDeviceGetCudaComputeCapability = lambda handle, capability=capability: capability
        assert [m.name for m in opened(nvml).meters][-1] == last


SETTERS = re.compile(
    r"nvml(Device|Unit|Gpm|System)(Set|Reset|Clear|Modify|Enable|Freeze)\w*|nvmlGpuInstanceCreate|amdsmi_(set|reset)|rsmi_dev_\w*set"
    r"|nvidia-smi[^\n]* (-pl|-lgc|-lmc|-ac|-pm|-mig|-r|-rgc|-rac|--power-limit|--gpu-reset|--lock)\b|\bnvpmodel\b|rocm-smi --set",
    re.IGNORECASE,
)


def test_nothing_in_the_package_sets_anything_on_a_device():
    sources = list(PACKAGE.rglob("*.py"))
    assert len(sources) > 30
    found = {str(p): SETTERS.search(p.read_text()) for p in sources}
    assert not {path: words for path, words in found.items() if words}


@pytest.mark.parametrize(
    "setter", ["nvml.nvmlDeviceSetPowerManagementLimit(h, 1)", "nvmlDeviceResetGpuLockedClocks", "nvidia-smi -i 0 -pl 300"]
)
def test_the_search_for_setters_finds_them(setter):
    assert SETTERS.search(setter)


def test_reading_nvml_calls_getters_only():
    nvml = FakeNvml()
    opened(nvml).board.state()
    assert nvml.called and all("Get" in name or name == "nvmlInit" for name in nvml.called)


def test_this_machine_either_has_rapl_or_says_why_not():
    if os.access("/sys/class/powercap/intel-rapl:0/energy_uj", os.R_OK):
        assert open_rapl().meters[0].energy_j() >= 0
    else:
        with pytest.raises(Unavailable):
            open_rapl()
