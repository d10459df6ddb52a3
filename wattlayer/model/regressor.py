"""The fitted parts together: scaffold x learned efficiency = time, physical x learned power, below the board's limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..features.columns import Array, Columns
from .cliffs import NONE, Cliffs
from .intervals import FADING_OCTAVES
from .power import PowerScaffold
from .residual import MODEL_FEATURES, Residual, model_features
from .scaffold import Scaffold


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
    """The same devices as in `metadata.Metadata.taught_by`."""

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
