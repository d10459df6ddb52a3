"""A trained model: scaffold x learned efficiency = time, learned power, energy as their product, with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..dataset import Measurement
from ..errors import InputError, first_line, nearest
from ..features.columns import Array, Columns
from ..files import whole_file
from ..hardware import find_hardware, known_hardware
from ..kinds import KINDS
from ..layer import Layer
from .file import checksum, payload, read
from .folders import is_file_name, model_path, shipped_models, user_models
from .intervals import EXTRAPOLATED_OCTAVES, Where
from .launches import Launches
from .metadata import Metadata
from .regressor import Regressor
from .support import Support

if TYPE_CHECKING:
    from ..trace import Trace


@dataclass(frozen=True, eq=False)
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

    def predict(self, layers: Iterable[Layer], runs: Sequence[str] | None = None, alone: bool = False) -> Prediction:
        """Predict time, power and energy of `layers` [n] with an interval at level `intervals.LEVEL`.

        `runs` names the campaign (board state) of each layer where it is known; unknown ones and None mean the
        reference campaign, the first of `metadata.runs`. What is predicted is a layer's cost among the others of a network,
        or `alone`, repeated again and again, as layers are measured. Raises InputError for what is no layer or too few names,
        and where the answer is no energy, as of a model file that was tampered with.
        """
        if isinstance(layers, Layer):
            raise InputError("predict takes several layers and was given one: give it in a list")
        layers = layers if isinstance(layers, Sequence) else tuple(layers)
        if runs is not None and (isinstance(runs, str) or len(runs) != len(layers)):
            raise InputError(f"runs {runs!r:.60} does not name a campaign for each of {len(layers)} layers: give a list as long")
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
        hardware = find_hardware(self.hardware)
        columns = Columns(layers, hardware)
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
        # no board draws less than idle, whatever was learned, nor more than its limit; no energy at all stays so, to be refused
        idle_j = min(hardware.idle_w, self.regressor.drawn.limit_w) * time_s
        energy = np.where(energy > 0, np.maximum(energy, idle_j), energy)
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
        from ..train import tell_launches, train

        rows = list(measurements)
        model = train(rows, seed=seed, hardware=hardware, name=name, source=source)
        if networks is None:
            from ..train.networks import traced_networks

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
        return EnergyModel(*read(Path(path)))


def _measured(layer: Layer, kinds: frozenset[str]) -> bool:
    """Whether a layer's kind was measured; fused element-wise work counts as covered where element-wise kinds were."""
    if layer.kind == "fused":
        return any(KINDS[kind].group == "elementwise" for kind in kinds if kind in KINDS)
    return layer.kind in kinds


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
    try:
        there = bool(Path(text).suffix) and Path(text).is_file()
        path = Path(text) if is_file_name(text) or there else model_path(text)
    except (OSError, ValueError) as error:  # names that no file can have
        raise InputError(f"model {text!r:.60} cannot be looked for: {first_line(error)}") from None
    if path is not None:
        try:
            written = path.stat()
        except (OSError, ValueError):
            return EnergyModel.load(path)  # which says what is wrong
        return _loaded(path.absolute(), written.st_mtime_ns, written.st_size, written.st_ino)
    known = {*user_models(), *shipped_models(), *known_hardware()}
    if text not in known:
        told = nearest(text, sorted(known)) or "; `wattlayer hardware` lists what is"
        raise InputError(f"no model and no hardware is called {text!r}{told}")
    from ..train.transfer import from_data_sheet

    return from_data_sheet(text)
