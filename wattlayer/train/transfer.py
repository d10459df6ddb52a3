"""A model of a device that nobody measured: the law under the measured ones, times what its data sheet says.

Rates of the scaffold are relative to peak rates and watts of the power scaffold relative to the board's limit, so both carry
over (`pooling` fits them). How long launching takes does not: that was the host of each measured loop. A CUDA graph has no
host between its kernels, so the floor of a layer is then the registry's `launch_s`; in eager mode an estimate adds the host,
which is taken to be about the middle of those loops' (`Lesson.launches`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..features import FEATURES_VERSION
from ..features.columns import Array
from ..hardware import Hardware, find_hardware
from ..kinds import KINDS
from ..model import EnergyModel
from ..model.cells import group_of, lenders
from ..model.folders import models_folder
from ..model.intervals import STEPS_OCTAVES, Conformal
from ..model.launches import Launches
from ..model.metadata import Metadata
from ..model.power import PowerScaffold
from ..model.regressor import Regressor
from ..model.residual import MODEL_FEATURES, Residual
from ..model.roofline import BLOCKS, LAUNCH_S, RATES
from ..model.scaffold import Scaffold

TENSOR_CORE_FRAC = 3.4 / 8.0
"""Share of their peak, relative to the vector units' own share, that tensor cores reach on convolutions where no source has them:
float16 convolutions of VGG-16 and ResNet-50 at batch 32 ran 4.14 and 2.79 times as fast as float32 ones on a V100 (geometric
mean 3.4), whose peak rates differ by 8 (PaddlePaddle, "float16 benchmark", 2018, cuDNN 7.1)."""

MODULE_W = 60.0
"""GPUs limited to this or less share memory and clocks with a small host: they learn from each other and not from boards."""

MIN_TEACHERS = 2
"""One other device may be anything: the only processor that was measured ran on one of its 28 cores. What is measured nowhere is
then better told by what was measured here."""

LN2 = float(np.log(2.0))
RUN = "data sheet"
NO_HOST = -10.0
"""Log rate of a host that is not there."""
SCHEMA = 7
LEARNED = "transfer/hardware.json"
"""What the measured devices taught, beside the shipped models."""


@dataclass(frozen=True)
class Lesson:
    """What measured devices have in common: rates of the scaffold, and watts per consumer as shares of the limit."""

    hardware: tuple[str, ...]
    log_rates: Mapping[str, tuple[float, ...]]
    consumers_frac: tuple[float, ...]

    def scaffold(self, launch_s: float | None = None) -> Scaffold:
        """Return the scaffold that the lesson foretells, with the launch floor `launch_s` of kernels where it is given."""
        rates = {name: np.array(row) for name, row in self.log_rates.items()}
        if "group:conv/tc" not in rates:
            rates |= {f"{name}/tc": on_tensor_cores(row) for name, row in rates.items() if _is_convolution(name)}
        if launch_s is not None:
            # nothing but the kernel's own start is left where no host issues it
            for row in rates.values():
                row[RATES.index("host")] = NO_HOST
                row[RATES.index("latency")] = np.log(launch_s / LAUNCH_S)
        return Scaffold({name: tuple(float(x) for x in row) for name, row in rates.items()})

    def launches(self, device: Hardware, spread_frac: float) -> Launches:
        """Return what the lesson foretells of the host of `device`: in eager mode it issues operators as slowly as in loops.

        By group of kinds, as kinds whose kernels are all long show no host. Norms are those of networks in eval mode: most that
        loops ran trained, which launches more kernels. `spread_frac` is how much slower the host may be.
        """
        host_s = {"*": self._host_s("*")}
        for kind, x in KINDS.items():
            group = "norm/eval" if x.group == "norm" else x.group
            host_s[kind] = self._host_s(next(name for name in lenders(group) if name in self.log_rates))
        return Launches(host_s, idle_w=device.idle_w, spread_frac=spread_frac, basis="carried over")

    def _host_s(self, name: str) -> float:
        return LAUNCH_S * float(np.exp(self.log_rates[name][RATES.index("host")]))

    def drawn(self, device: Hardware) -> PowerScaffold:
        """Return the watts that the lesson foretells for `device`."""
        return PowerScaffold(tuple(x * device.max_w for x in self.consumers_frac), device.max_w)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Lesson:
        """Rebuild from JSON types."""
        rates = {name: tuple(row) for name, row in record["log_rates"].items()}
        return Lesson(tuple(record["hardware"]), rates, tuple(record["consumers_frac"]))


def on_tensor_cores(log_rates: Array) -> Array:
    """Return log rates of vector units as they are assumed to be on tensor cores."""
    moved = log_rates.copy()
    moved[[RATES.index(name) for name in BLOCKS["compute"]]] -= np.log(TENSOR_CORE_FRAC)
    return moved


def device_class(device: Hardware) -> str:
    """Return "processor", "module" (a system on a chip) or "board": devices of one class run alike."""
    if device.kind == "cpu":
        return "processor"
    return "module" if device.max_w <= MODULE_W else "board"


def _is_convolution(name: str) -> bool:
    return group_of(name) == "conv"


def launch_floor(device: Hardware) -> float | None:
    """Return the launch floor in seconds of a device that replays graphs; None, what loops took, for one that has no graphs."""
    return None if device.kind == "cpu" else device.launch_s


def data_sheet_model(
    device: Hardware, lesson: Lesson, half_width: float, correlation: float, launch_s: float | None = None,
    launches: Launches | None = None,
) -> EnergyModel:  # fmt: skip
    """Return a model of `device` that nothing was measured on; its kinds are all uncovered.

    `half_width` is that of its intervals in log energy and `correlation` the share that layers have in common, both from
    devices left out; `launch_s` is the launch floor, None for that of loops in eager mode on an average host, and `launches` what
    that host takes in passes, None where it is assumed.
    """
    scaffold, drawn = lesson.scaffold(launch_s), lesson.drawn(device)
    time, power = (Residual(_no_trees(len(MODEL_FEATURES) - less)) for less in (1, 0))
    regressor = Regressor(device.name, scaffold, drawn, time, power, (RUN,), (0.0,))
    names = ", ".join(lesson.hardware)
    metadata = Metadata(
        name=device.name, hardware=device.name, features=FEATURES_VERSION, feature_names=MODEL_FEATURES, rows=0, layers=0,
        kinds=(), data_sha256="", source=f"data sheet only; efficiencies of {names}", runs=(RUN,), run_power_shift=(0.0,),
        consumers_w=drawn.consumers_w, limit_w=drawn.limit_w, log_rates=scaffold.log_rates, support={},
        conformal=Conformal({"*": half_width}, (1.0,) * len(STEPS_OCTAVES), half_width, correlation), seed=0, basis="data sheet",
        launches=launches, looped=launch_s is None,
    )  # fmt: skip
    return EnergyModel.of(metadata, regressor)


def _no_trees(features: int):  # type: ignore[no-untyped-def]
    """A booster that answers 0 whatever it is asked."""
    import xgboost

    table = xgboost.DMatrix(np.zeros((2, features)), np.zeros(2))
    return xgboost.train({"base_score": 0.0, "nthread": 1}, table, 0)


@dataclass(frozen=True)
class Interval:
    """Intervals as devices left out ask for: half-width, and the share of the error that layers have in common."""

    half_width_octaves: float
    correlation_frac: float
    host_spread_frac: float | None = None
    """How much slower the next host may be than what others foretell; None where too few were measured to say."""


@dataclass(frozen=True)
class Learned:
    """What the measured devices of one class teach about the next one: all together, and without each of them in turn."""

    lessons: tuple[Lesson, ...]
    interval: Interval

    def lesson(self, device: Hardware) -> Lesson | None:
        """Return what the most devices but `device` itself teach of it; None where there is no other."""
        others = [lesson for lesson in self.lessons if device.name not in lesson.hardware]
        return max(others, key=lambda x: len(x.hardware), default=None)

    def model(self, device: Hardware, looped: bool = False) -> EnergyModel:
        """Return the data-sheet model of `device`, from the most devices but itself; InputError where there is no other.

        `looped` gives it the launch floor of the measured loops in eager mode instead of that of graphs.
        """
        lesson, interval = self.lesson(device), self.interval
        if lesson is None:
            raise InputError(
                f"no other {device_class(device)} than {device.name} was measured: nothing can be carried over to it"
            )
        launch_s, spread = None if looped else launch_floor(device), interval.host_spread_frac
        launches = None if launch_s is None or spread is None else lesson.launches(device, spread)
        return data_sheet_model(device, lesson, interval.half_width_octaves * LN2, interval.correlation_frac, launch_s, launches)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Learned:
        """Rebuild from JSON types."""
        return Learned(tuple(Lesson.from_json(x) for x in record["lessons"]), Interval(**record["interval"]))


def read_learned() -> dict[str, Any]:
    """Return the content of the shipped `LEARNED`; raise InputError where it is missing or of other features."""
    path = models_folder() / LEARNED
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be used ({error}): run models/build_transfer.py") from None
    if (record.get("schema"), record.get("features"), record.get("rates")) != (SCHEMA, FEATURES_VERSION, list(RATES)):
        raise InputError(f"{path} is of another version of wattlayer: run models/build_transfer.py")
    return record


def teachers(device: Hardware) -> Lesson | None:
    """Return what other measured devices of its class teach of `device`; None where there are fewer than `MIN_TEACHERS`.

    Raises InputError as `read_learned`.
    """
    classes = read_learned()["classes"]
    lesson = Learned.from_json(classes[device_class(device)]).lesson(device) if device_class(device) in classes else None
    return lesson if lesson and len(lesson.hardware) >= MIN_TEACHERS else None


def from_data_sheet(name: str, looped: bool = False) -> EnergyModel:
    """Return a model of the registry's device `name` that rests on its data sheet alone; raise InputError for an unknown one.

    `looped`: as in `Learned.model`.
    """
    device = find_hardware(name)
    classes = read_learned()["classes"]
    if device_class(device) not in classes:
        raise InputError(f"no {device_class(device)} was measured: nothing can be carried over to {name}")
    return Learned.from_json(classes[device_class(device)]).model(device, looped)
