"""A model of a device that nobody measured: efficiencies of the measured ones, times what its data sheet says.

Rates of the scaffold are relative to peak rates and watts of the power scaffold relative to the board's limit, so both carry
over. Log rates are averaged over the source devices, each giving for a cell of layers the most special rates that it has;
watts are averaged as shares of the data sheet's limit. Nothing is chosen by looking at errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .errors import InputError
from .features import FEATURES_VERSION, Array, Columns
from .hardware import Hardware, find_hardware
from .kinds import KINDS
from .layer import Layer
from .model import MODEL_FEATURES, EnergyModel, Metadata, Regressor, checksum, models_folder, payload
from .power import PowerScaffold
from .scaffold import TERMS, Scaffold, per_layer

TENSOR_CORE_FRAC = 3.4 / 8.0
"""Share of their peak, relative to the vector units' own share, that tensor cores reach on convolutions where no source has them:
float16 convolutions of VGG-16 and ResNet-50 at batch 32 ran 4.14 and 2.79 times as fast as float32 ones on a V100 (geometric
mean 3.4), whose peak rates differ by 8 (PaddlePaddle, "float16 benchmark", 2018, cuDNN 7.1)."""

DISTANT_WEIGHT = 0.3
"""What a source that never measured anything like a cell counts there, against 1 for one that did."""

MODULE_W = 60.0
"""GPUs limited to this or less share memory and clocks with a small host: they learn from each other and not from boards."""

LN2 = float(np.log(2.0))
RUN = "data sheet"
SCHEMA = 1
LEARNED = "transfer/hardware.json"
"""What the measured devices taught, beside the shipped models."""


@dataclass(frozen=True)
class Source:
    """What one measured device teaches: its fitted rates, and watts per consumer of its power scaffold."""

    hardware: str
    log_rates: Mapping[str, tuple[float, ...]]
    consumers_w: tuple[float, ...]

    @staticmethod
    def of(metadata: Metadata) -> Source:
        """Return what a trained model teaches."""
        return Source(metadata.hardware, metadata.log_rates, metadata.consumers_w)

    @staticmethod
    def fit(layers: Sequence[Layer], hardware: str, time_s: Array, power_w: Array) -> Source:
        """Return what measured times [n] in seconds and powers [n] in watts of `layers` [n] teach."""
        columns = Columns(layers, find_hardware(hardware))
        scaffold = Scaffold.fit(layers, columns, time_s)
        drawn = PowerScaffold.fit(columns, time_s, power_w, np.zeros(len(time_s)), per_layer(layers))
        return Source(hardware, scaffold.log_rates, drawn.consumers_w)


def device_class(device: Hardware) -> str:
    """Return "processor", "module" (a system on a chip) or "board": devices of one class run alike."""
    if device.kind == "cpu":
        return "processor"
    return "module" if device.max_w <= MODULE_W else "board"


def combine(sources: Sequence[Source], device: Hardware) -> tuple[Scaffold, PowerScaffold]:
    """Return time and power of `device` as its data sheet and `sources` of other devices foretell them."""
    names = {name for source in sources for name in source.log_rates}
    names |= {f"{name}/tc" for name in names if _is_convolution(name) and not name.endswith("/tc")}
    log_rates = {name: _mean_rates(name, sources) for name in sorted(names)}
    shares = [np.log(np.array(x.consumers_w) / find_hardware(x.hardware).max_w) for x in sources]
    consumers_w = np.exp(np.mean(shares, axis=0)) * device.max_w
    return Scaffold(log_rates), PowerScaffold(tuple(float(x) for x in consumers_w), device.max_w)


def _mean_rates(name: str, sources: Sequence[Source]) -> tuple[float, ...]:
    rows, weights = [], []
    for source in sources:
        known = next(x for x in _ladder(name) if x in source.log_rates)
        rates = np.array(source.log_rates[known])
        if name.endswith("/tc") and not known.endswith("/tc"):
            rates[[TERMS.index("compute"), TERMS.index("tile")]] -= np.log(TENSOR_CORE_FRAC)
        rows.append(rates)
        weights.append(1.0 if known != "*" or name == "*" else DISTANT_WEIGHT)
    return tuple(float(x) for x in np.average(rows, axis=0, weights=weights))


def _ladder(name: str) -> list[str]:
    """Names of rates from `name` to ever wider classes."""
    level, _, rest = name.partition(":")
    plain = name.removesuffix("/tc")
    steps = [name]
    if level == "cell":
        group = group_of_cell(rest)
        steps += [f"group:{group}", plain, f"group:{group.removesuffix('/tc')}"]
    elif plain != name:
        steps.append(plain)
    return list(dict.fromkeys([*steps, "*"]))


def group_of_cell(cell: str) -> str:
    """Return the group (with /tc on tensor cores) that a cell of the scaffold belongs to."""
    kind = KINDS.get(cell.split("/", maxsplit=1)[0])
    group = kind.group if kind else "other"
    return group + ("/tc" if cell.endswith("/tc") else "")


def _is_convolution(name: str) -> bool:
    level, _, rest = name.partition(":")
    return name != "*" and (group_of_cell(rest) if level == "cell" else rest).startswith("conv")


def data_sheet_model(device: Hardware, sources: Sequence[Source], half_width: float, correlation: float) -> EnergyModel:
    """Return a model of `device` that nothing was measured on; its kinds are all uncovered.

    `half_width` is that of its intervals in log energy and `correlation` the share that layers have in common, both from
    devices left out.
    """
    scaffold, drawn = combine(sources, device)
    time, power = (_nothing_learned(len(MODEL_FEATURES) - less) for less in (1, 0))
    regressor = Regressor(device.name, scaffold, drawn, time, power, (RUN,), (0.0,))
    names = ", ".join(source.hardware for source in sources)
    metadata = Metadata(
        name=device.name, hardware=device.name, features=FEATURES_VERSION, feature_names=MODEL_FEATURES, rows=0, layers=0,
        kinds=(), data_sha256="", source=f"data sheet only; efficiencies of {names}", runs=(RUN,), run_power_shift=(0.0,),
        consumers_w=drawn.consumers_w, limit_w=drawn.limit_w, log_rates=scaffold.log_rates, support={}, slope=0.0,
        quantiles={"*": half_width}, correlation=correlation, seed=0, basis="data sheet",
    )  # fmt: skip
    return EnergyModel(metadata, regressor, checksum(payload(metadata, time, power)))


def _nothing_learned(features: int):  # type: ignore[no-untyped-def]
    """A booster that answers 0 whatever it is asked."""
    import xgboost

    table = xgboost.DMatrix(np.zeros((2, features)), np.zeros(2))
    return xgboost.train({"base_score": 0.0, "nthread": 1}, table, 0)


@dataclass(frozen=True)
class Interval:
    """Intervals as devices left out ask for: half-width, and the share of the error that layers have in common."""

    half_width_octaves: float
    correlation_frac: float


@dataclass(frozen=True)
class Learned:
    """What the measured devices of one class teach about the next one."""

    sources: tuple[Source, ...]
    interval: Interval

    def model(self, device: Hardware) -> EnergyModel:
        """Return the data-sheet model of `device`; raise InputError where only the device itself was measured."""
        others = [source for source in self.sources if source.hardware != device.name]
        if not others:
            raise InputError(
                f"no other {device_class(device)} than {device.name} was measured: nothing can be carried over to it"
            )
        return data_sheet_model(device, others, self.interval.half_width_octaves * LN2, self.interval.correlation_frac)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Learned:
        """Rebuild from JSON types."""
        sources = (
            Source(x["hardware"], {k: tuple(v) for k, v in x["log_rates"].items()}, tuple(x["consumers_w"]))
            for x in record["sources"]
        )
        return Learned(tuple(sources), Interval(**record["interval"]))


def read_learned() -> dict[str, Any]:
    """Return the content of the shipped `LEARNED`; raise InputError where it is missing or of other features."""
    path = models_folder() / LEARNED
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be used ({error}): run models/build_transfer.py") from None
    if (record.get("schema"), record.get("features"), record.get("terms")) != (SCHEMA, FEATURES_VERSION, list(TERMS)):
        raise InputError(f"{path} is of another version of wattlayer: run models/build_transfer.py")
    return record


def from_data_sheet(name: str) -> EnergyModel:
    """Return a model of the registry's device `name` that rests on its data sheet alone; raise InputError for an unknown one."""
    device = find_hardware(name)
    classes = read_learned()["classes"]
    if device_class(device) not in classes:
        raise InputError(f"no {device_class(device)} was measured: nothing can be carried over to {name}")
    return Learned.from_json(classes[device_class(device)]).model(device)
