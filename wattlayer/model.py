"""A trained model: scaffold x learned efficiency = time, learned power, energy as their product, with intervals.

A model file is JSON: XGBoost's own JSON of both boosters, what neighbours taught and the cliffs that were found, beside
metadata (feature names and version, hardware, kinds, ranges, conformal quantiles, data digest) and a checksum. Opening one
never runs code.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .cliffs import NONE, Cliffs
from .dataset import Measurement
from .errors import InputError, first_line, nearest
from .features import FEATURES_VERSION, Array, Columns
from .folder import user_folder
from .hardware import find_hardware, known_hardware
from .intervals import AXES, EXTRAPOLATED_OCTAVES, FADING_OCTAVES, Conformal, Support, Where
from .kinds import KINDS
from .launches import BASES, Launches
from .layer import Layer
from .power import CONSUMERS, PowerScaffold
from .residual import MODEL_FEATURES, Residual, model_features
from .scaffold import RATES, Scaffold
from .whole import whole_file

if TYPE_CHECKING:
    from .trace import Trace

SCHEMA = 13
ASSUMED_POWER = "assumed power"
MODEL_BASES = ("measured", "calibrated", "data sheet", ASSUMED_POWER)
"""What a model rests on: layers measured there, few of them, none, or energies that are measured times a stated power."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of layers, all arrays [n_layers]; energies are of one call, in joules, idle included."""

    time_s: Array
    power_w: Array
    energy_j: Array
    energy_low_j: Array
    energy_high_j: Array
    half_width: Array
    """Half-width of the interval in log energy."""
    covered: NDArray[np.bool_]
    """Whether the layer's kind was measured on this hardware."""
    extrapolated: NDArray[np.bool_]
    """Whether the layer lies far outside what was measured (or was never measured at all)."""

    @property
    def interval_j(self) -> tuple[Array, Array]:
        """Lower and upper ends [n_layers] of the energies' intervals at level `intervals.LEVEL`."""
        return self.energy_low_j, self.energy_high_j


@dataclass(frozen=True)
class Regressor:
    """The fitted parts that turn layers into time and power."""

    hardware: str
    scaffold: Scaffold
    drawn: PowerScaffold
    time: Residual
    power: Residual
    runs: tuple[str, ...]
    """Campaigns seen in training; the first is the board state that predictions are made for."""
    run_power_shift: tuple[float, ...]
    """Log ratio of each campaign's board power to the first one's, below the power limit."""
    cliffs: Cliffs = NONE
    taught_by: tuple[str, ...] = ()
    """Other devices whose rates and watts stand in for groups of kinds that were not measured on this one."""

    def run_codes(self, runs: Sequence[str]) -> Array:
        """Return the place [n] of each campaign in `runs`, that of the first for those never seen."""
        codes = {name: float(i) for i, name in enumerate(self.runs)}
        return np.array([codes.get(run, 0.0) for run in runs])

    def log_time_power(self, columns: Columns, kinds: frozenset[str], run: Array, beyond_octaves: Array) -> tuple[Array, Array]:
        """Return log time_s and log power_w, each [n_layers]; kinds never measured keep the physical answer.

        The learned part of time fades with `beyond_octaves` [n_layers], how far layers exceed the largest measured,
        where trees answer flatly; that of power has bounds and stays. Of weights held in fewer bytes than they are computed
        in nothing was learned: what these save is physics alone.
        """
        plain, shift = columns.computed, np.array(self.run_power_shift)[run.astype(int)]
        scaffold_s = self.scaffold.time_s(plain, run)
        # one table for time and power, in the precision that trees work in: copies would take as long as they do
        table = np.empty((len(run), len(MODEL_FEATURES)), np.float32)
        table[:, :-1] = model_features(plain, scaffold_s, run, self.cliffs)
        learned = plain.of_kind(lambda x: float(x.kind in kinds))
        near = np.exp(-((beyond_octaves / FADING_OCTAVES) ** 2))
        log_time = np.log(scaffold_s) + learned * near * self.time.ask(table[:, :-1], near)
        physical_w = self.drawn.power_w(plain, np.exp(log_time), shift)
        table[:, -1] = np.log2(physical_w)
        log_power = np.log(physical_w) + learned * self.power.ask(table, near)
        if plain is not columns:
            log_time += np.log(self.scaffold.time_s(columns, run) / scaffold_s)
            log_power += np.log(self.drawn.power_w(columns, np.exp(log_time), shift) / physical_w)
        return log_time, np.minimum(log_power, np.log(self.drawn.limit_w))


@dataclass(frozen=True)
class Metadata:
    """What a model file says of itself beside its boosters."""

    name: str
    hardware: str
    features: int
    feature_names: tuple[str, ...]
    rows: int
    layers: int
    kinds: tuple[str, ...]
    data_sha256: str
    source: str
    runs: tuple[str, ...]
    run_power_shift: tuple[float, ...]
    consumers_w: tuple[float, ...]
    limit_w: float
    log_rates: Mapping[str, tuple[float, ...]]
    support: Mapping[str, tuple[tuple[float, ...], ...]]
    conformal: Conformal
    """What intervals rest on."""
    seed: int
    basis: str = "measured"
    """What the model rests on, one of `MODEL_BASES`."""
    left_out_mdape_frac: float | None = None
    """Median error of energy over the readings of all layers, each layer predicted without its fold; None where nothing was
    measured, or not under these `conditions`."""
    conditions: str = ""
    """What was assumed of the device beside its data, such as a power limit; empty where nothing was."""
    launches: Launches | None = None
    """What passes cost beside their kernels; None where all of it is assumed."""
    taught_by: tuple[str, ...] = ()
    """Those of the regressor."""
    own_support: Mapping[str, tuple[tuple[float, ...], ...]] | None = None
    """Of a calibrated model what was measured on the device itself: `kinds` and `support` are also of what it came from."""

    def __post_init__(self) -> None:
        if self.feature_names != MODEL_FEATURES:
            raise ValueError("its features are others")
        if not self.runs or len(self.run_power_shift) != len(self.runs):
            raise ValueError(f"{len(self.runs)} campaigns have {len(self.run_power_shift)} power shifts")
        if len(self.consumers_w) != len(CONSUMERS) or min(self.consumers_w) < 0 or self.limit_w <= 0:
            raise ValueError(f"watts are of {len(CONSUMERS)} consumers, none below 0, and of a limit above 0")
        if "*" not in self.log_rates or any(len(row) != len(RATES) for row in self.log_rates.values()):
            raise ValueError(f"every group has {len(RATES)} rates, and '*' stands for the others")
        points = [*self.support.values(), *(self.own_support or {}).values()]
        if not all(rows and all(len(row) == len(AXES) for row in rows) for rows in points):
            raise ValueError(f"what was measured lies along {len(AXES)} axes")
        if self.basis not in MODEL_BASES:
            raise ValueError(f"the basis {self.basis!r} is none of {', '.join(MODEL_BASES)}")

    @property
    def calibrated(self) -> bool:
        """Whether another model was adapted to few measured layers."""
        return self.own_support is not None

    @property
    def launches_or_assumed(self) -> Launches:
        """What passes cost beside their kernels: fitted to networks measured there, else carried over or assumed."""
        return self.launches or Launches(idle_w=find_hardware(self.hardware).idle_w)

    @property
    def launching(self) -> str:
        """What the gaps of eager mode rest on."""
        return BASES[self.launches_or_assumed.basis]

    @property
    def caveat(self) -> str:
        """One plain line on what every prediction rests on; empty for a model that was measured where it is used."""
        says = "" if self.basis == "measured" else self.source
        if self.basis == "data sheet":
            says = f"nothing was measured on {self.hardware}: {self.source}"
        if self.basis == ASSUMED_POWER:
            says = f"energies are measured times a stated power, assumed and not measured: {self.source or 'source not stated'}"
        return "; ".join(x for x in (says, self.conditions) if x)


@dataclass(frozen=True)
class EnergyModel:
    """A trained model of one device; it exists only fitted."""

    metadata: Metadata
    regressor: Regressor
    sha256: str

    @property
    def name(self) -> str:
        """What the model is called, like its file: that of its device, unless it was named otherwise."""
        return self.metadata.name

    @property
    def hardware(self) -> str:
        """The device that it was trained on, by its name in the registry."""
        return self.metadata.hardware

    @property
    def launches(self) -> Launches:
        """What passes cost beside their kernels, and what that rests on."""
        return self.metadata.launches_or_assumed

    def predict(self, layers: Sequence[Layer], runs: Sequence[str] | None = None, alone: bool = False) -> Prediction:
        """Predict time, power and energy of `layers` [n] with an interval at level `intervals.LEVEL`.

        `runs` names the campaign (board state) of each layer where it is known; unknown ones and None mean the
        reference campaign, the first of `metadata.runs`. What is predicted is a layer's cost among the others of a network,
        or `alone`, repeated again and again, as layers are measured. Raises InputError where the answer is no energy, as of
        a model file that was tampered with.
        """
        if (wrong := next((x for x in layers if not isinstance(x, Layer)), None)) is not None:
            raise InputError(f"{wrong!r:.60} is no layer: give those of a trace, wattlayer.trace(module, *inputs).layers")
        with np.errstate(all="ignore"):  # what comes of it is checked instead
            told = self._predict(layers, runs, alone)
        # false of NaN
        sound = (told.energy_low_j > 0) & (told.energy_high_j < np.inf) & (told.time_s > 0) & (told.time_s < np.inf)
        if not sound.all():
            worst = int(np.argmin(sound))
            raise InputError(
                f"the model {self.name!r} tells no energy of {layers[worst].kind} ({told.energy_j[worst]} J, from "
                f"{told.energy_low_j[worst]} to {told.energy_high_j[worst]}): get it again or retrain it"
            )
        return told

    def _predict(self, layers: Sequence[Layer], runs: Sequence[str] | None, alone: bool) -> Prediction:
        columns = Columns(layers, find_hardware(self.hardware))
        kinds = frozenset(self.metadata.kinds)
        distance = self._own_support.distance_octaves(columns)
        run = np.zeros(len(layers)) if runs is None else self.regressor.run_codes(runs)
        beyond = self._support.beyond_octaves(columns)
        log_time, log_power = self.regressor.log_time_power(columns, kinds, run, beyond)
        conformal, where = self.metadata.conformal, Where(distance, beyond, np.exp(log_time))
        half_width = conformal.half_width(columns.of_kind(lambda x: conformal.quantile(x.group)), where)
        if self.metadata.own_support is not None:
            # few layers tell nothing of others: these are no better known than kinds that nobody measured
            half_width = np.where(distance > EXTRAPOLATED_OCTAVES, np.maximum(half_width, conformal.never), half_width)
        launches = self.launches
        displaced = columns.cached & (not alone)
        time_s = where.time_s * (1.0 + launches.displaced_time_frac * displaced)
        energy = np.exp(log_time + log_power) * (1.0 + launches.displaced_energy_frac * displaced)
        return Prediction(
            time_s=time_s, power_w=energy / time_s, energy_j=energy,
            energy_low_j=energy * np.exp(-half_width), energy_high_j=energy * np.exp(half_width), half_width=half_width,
            covered=columns.of_kind(lambda x: _measured(x, self._own_kinds)).astype(bool),
            extrapolated=distance > EXTRAPOLATED_OCTAVES,
        )  # fmt: skip

    @cached_property
    def _support(self) -> Support:
        return Support(self.metadata.support)

    @cached_property
    def _own_support(self) -> Support:
        own = self.metadata.own_support
        return self._support if own is None else Support(own)

    @cached_property
    def _own_kinds(self) -> frozenset[str]:
        own = self.metadata.own_support
        return frozenset(self.metadata.kinds) if own is None else Support(own).kinds

    @staticmethod
    def of(metadata: Metadata, regressor: Regressor) -> EnergyModel:
        """Return the model of these parts, named by the checksum that its file has."""
        return EnergyModel(metadata, regressor, checksum(payload(metadata, regressor)))

    @staticmethod
    def train(
        measurements: Iterable[Measurement],
        seed: int = 0,
        hardware: str | None = None,
        name: str | None = None,
        source: str = "",
        networks: Sequence[tuple[Measurement, Trace]] | None = None,
    ) -> EnergyModel:
        """Train on measured layers of one device; deterministic by `seed`.

        Measured `networks`, each with its trace, tell how it launches; where they are not given, those among the `measurements`
        are traced by their names. `hardware` picks one device where the rows are of several. Raises InputError for too few
        layers, several devices, measured and assumed energies mixed, or a network that cannot be traced.
        """
        from .training import tell_launches, train

        rows = list(measurements)
        model = train(rows, seed=seed, hardware=hardware, name=name, source=source)
        if networks is None:
            from .evaluate import traced_networks

            if not (networks := traced_networks([m for m in rows if m.hardware == model.hardware])):
                return model
        return tell_launches(model, networks, rows)

    def with_launches(self, launches: Launches) -> EnergyModel:
        """Return this model with what `launches` tells of passes."""
        return EnergyModel.of(replace(self.metadata, launches=launches), self.regressor)

    def save(self, path: str | Path) -> None:
        """Write the model file; it appears at `path` only once it is complete. Raises InputError where it cannot be written."""
        if Path(path).suffix == ".ubj":
            raise InputError(f"{path}: model files are JSON: name it {Path(path).with_suffix('.json')}")
        with whole_file(Path(path)) as file:
            file.write(json.dumps(payload(self.metadata, self.regressor) | {"sha256": self.sha256}, separators=(",", ":")))

    @staticmethod
    def load(path: str | Path) -> EnergyModel:
        """Read a model file; raise InputError with the reason for one that is truncated, altered, older or newer."""
        path = Path(path)
        record = _read(path)
        digest = record.pop("sha256", None)
        if record.get("wattlayer_model") != SCHEMA:
            raise InputError(
                f"{path} has model schema {record.get('wattlayer_model')!r}, this wattlayer reads {SCHEMA}: retrain it"
            )
        version = _dictionary(path, record, "metadata").get("features")
        if version != FEATURES_VERSION:
            raise InputError(
                f"{path} has feature version {version}, this wattlayer has {FEATURES_VERSION}: retrain it with `wattlayer train`"
            )
        if digest != checksum(record):
            raise InputError(f"{path} does not match its checksum (truncated or altered): get it again or retrain it")
        return _restore(path, record, digest)


def _measured(layer: Layer, kinds: frozenset[str]) -> bool:
    """Whether a layer's kind was measured; fused element-wise work counts as covered where element-wise kinds were."""
    if layer.kind == "fused":
        return any(KINDS[kind].group == "elementwise" for kind in kinds if kind in KINDS)
    return layer.kind in kinds


def payload(metadata: Metadata, regressor: Regressor) -> dict[str, Any]:
    """Return the content of a model file without its checksum."""
    learned = {"time": regressor.time.to_json(), "power": regressor.power.to_json(), "cliffs": asdict(regressor.cliffs)["groups"]}
    told = json.loads(json.dumps(asdict(metadata)))
    if metadata.own_support is None:  # as of all models that were not calibrated
        del told["own_support"]
    return {"wattlayer_model": SCHEMA, "metadata": told, **learned}


def checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a model's content in canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    import msgspec

    try:
        record = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is not a wattlayer model (truncated, or not JSON): get it again or retrain it") from None
    if not isinstance(record, dict) or "wattlayer_model" not in record:
        raise InputError(f"{path} is not a wattlayer model: train one with `wattlayer train`")
    return record


def _dictionary(path: Path, record: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a wattlayer model: its {key!r} is missing")
    return value


def _restore(path: Path, record: Mapping[str, Any], digest: str) -> EnergyModel:
    import msgspec
    import xgboost

    try:
        told = record["metadata"]
        _no_others(told, Metadata)
        _no_others(told.get("launches"), Launches)
        _no_others(told.get("conformal"), Conformal)
        metadata = msgspec.convert(told, Metadata)
        time, power = (
            Residual.from_json(record["time"], len(MODEL_FEATURES) - 1),
            Residual.from_json(record["power"], len(MODEL_FEATURES)),
        )
        cliffs = Cliffs.from_json(record["cliffs"])
    except (LookupError, AttributeError, TypeError, ValueError, OverflowError, xgboost.core.XGBoostError) as error:
        why = first_line(error)
        raise InputError(f"{path} is not a wattlayer model that this version can use ({why}): retrain it") from None
    scaffold = Scaffold(metadata.log_rates, metadata.runs)
    drawn = PowerScaffold(metadata.consumers_w, metadata.limit_w)
    regressor = Regressor(metadata.hardware, scaffold, drawn, time, power, metadata.runs, metadata.run_power_shift, cliffs,
                          metadata.taught_by)  # fmt: skip
    return EnergyModel(metadata, regressor, digest)


def _no_others(told: Any, kind: type) -> None:
    """Raise ValueError for a part of another version: what this one does not know of would be left out silently."""
    known = {field.name for field in fields(kind)}
    for name in told if isinstance(told, Mapping) else ():
        if name not in known:
            raise ValueError(f"{kind.__name__} has no {name}")


def models_folder() -> Path:
    """Return the folder of shipped models: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def shipped_models() -> list[str]:
    """Return the names of the models that come with wattlayer."""
    return sorted(path.stem for path in models_folder().glob("*.json"))


def user_models_folder() -> Path:
    """Return the folder of this user's own models; it need not exist."""
    return user_folder() / "models"


def user_models() -> list[str]:
    """Return the names of this user's own models."""
    return sorted(path.stem for path in user_models_folder().glob("*.json"))


def model_path(name: str) -> Path | None:
    """Return the file of the model called `name`, the user's own before a shipped one; None where there is neither."""
    paths = (folder / f"{name}.json" for folder in (user_models_folder(), models_folder()))
    return next((path for path in paths if path.is_file()), None)


def is_file_name(text: str) -> bool:
    """Whether `load_model` takes `text` for a file and not for a model or a device, be there one or not."""
    return text.endswith(".json") or os.sep in text


@lru_cache(maxsize=16)
def _loaded(path: Path, mtime_ns: int, size_bytes: int, inode: int) -> EnergyModel:
    """The model of a file as it was written then: to read and check one takes fifty times as long as a network's answer."""
    return EnergyModel.load(path)


def load_model(name: str | Path | EnergyModel) -> EnergyModel:
    """Load a model by name (the user's own, then a shipped one) or by its path; one that is loaded is returned as it is.

    The name of a device that has no model gives one made from its data sheet, whose metadata say so (`basis`). Raises
    InputError for any other name, naming what there is.
    """
    if isinstance(name, EnergyModel):
        return name
    if not isinstance(name, str | Path):
        raise InputError(f"a model is a name, a path or an EnergyModel, not {type(name).__name__}")
    text = str(name)
    there = bool(Path(text).suffix) and Path(text).is_file()
    path = Path(text) if is_file_name(text) or there else model_path(text)
    if path is not None:
        try:
            written = path.stat()
        except OSError:
            return EnergyModel.load(path)  # which says what is wrong
        return _loaded(path.absolute(), written.st_mtime_ns, written.st_size, written.st_ino)
    known = {*user_models(), *shipped_models(), *known_hardware()}
    if text not in known:
        told = nearest(text, sorted(known)) or "; `wattlayer hardware` lists what is"
        raise InputError(f"no model and no hardware is called {text!r}{told}")
    from .transfer import from_data_sheet

    return from_data_sheet(text)
