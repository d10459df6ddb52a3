"""What an evaluation says: one record a predictor, split and group of kinds, the errors in it, and the rows they come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..dataset import Measurement
from ..errors import InputError
from ..features.columns import Array
from ..model.intervals import LEVEL
from .sampling import CONFIDENCE, of_median, of_share

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Score:
    """Errors of one predictor on one split; `_frac` values are shares, ape = |predicted / measured − 1|."""

    unit: str
    split: str
    hardware: str
    predictor: str
    subset: str
    """"all" rows, or those of one group of kinds."""
    rows: int
    mdape_frac: float
    p90_ape_frac: float
    signed_median_frac: float
    spearman: float | None
    kendall: float | None
    noise_floor_frac: float | None
    """Median scatter of one measurement: of each repeat of a layer in a campaign around the mean of its others; None without."""
    coverage_frac: float | None
    """Share of measured energies inside the interval (meant: `model.intervals.LEVEL`); None for baselines."""
    time_mdape_frac: float | None = None
    mdape_low_frac: float | None = None
    """Lower bound of the median error of all layers, or networks, like these (`sampling`); None of too few."""
    mdape_high_frac: float | None = None
    """Upper bound of it."""
    coverage_low_frac: float | None = None
    """Lower bound of the share inside, of all like these; None of too few, and for baselines."""
    coverage_high_frac: float | None = None
    """Upper bound of it."""

    @property
    def noise_of_error_frac(self) -> float | None:
        """The noise floor over the median error: 1 where nothing but the measurements' noise is left."""
        return None if self.noise_floor_frac is None or not self.mdape_frac else self.noise_floor_frac / self.mdape_frac


@dataclass(frozen=True)
class Judged:
    """One measured row, of a layer or of a network, beside what wattlayer says of it in one split.

    Scores are of these rows: the median of `ape_frac` over those of a split and a subset is their `mdape_frac`, the share of
    `inside` their `coverage_frac`. A row that several parts of a split leave out (families, tasks) is there for each.
    """

    split: str
    without: str | None
    """The part of the split that the row was judged in, which its model did not know: a fold, a family, a network, …; None
    where nothing was left out."""
    measurement: Measurement
    """As it is judged, less the drift of its board."""
    flop: int
    input_shapes: tuple[tuple[int, ...], ...]
    """Of a layer those of all tensors that it reads, its weights included; of a network those of its inputs."""
    predicted_energy_j: float
    predicted_low_j: float
    predicted_high_j: float
    predicted_time_s: float
    covered_frac: float
    """Share of the predicted energy in kinds that were measured on the hardware: 0 or 1 of a layer."""
    extrapolated_frac: float
    """Share of the predicted energy in layers far outside what was measured: 0 or 1 of a layer."""
    kind_layers: int | None = None
    """Distinct layers of its kind that its model was trained on; None of a network, and where the model does not say."""
    noise_frac: float | None = None
    """How far the row is from the mean of its repeats (the same layer in the same campaign), as the scatter of one measurement;
    None where it has none. The median over all rows of one split `given` is the scores' `noise_floor_frac`."""

    @property
    def unit(self) -> str:
        """ "layer" or "network"."""
        return "network" if self.measurement.layer is None else "layer"

    @property
    def subset(self) -> str:
        """What the row is scored with beside all: its group of kinds, or a network's launch mode."""
        return self.measurement.mode if self.measurement.layer is None else self.measurement.layer.group

    @property
    def ape_frac(self) -> float:
        """Absolute percentage error of the energy, as a share."""
        return abs(self.predicted_energy_j / self.measurement.energy_j - 1)

    @property
    def inside(self) -> bool:
        """Whether the measured energy lies in the predicted interval."""
        return self.predicted_low_j <= self.measurement.energy_j <= self.predicted_high_j

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON types, under the same keys for layers and networks; what does not apply is None."""
        m, layer = self.measurement, self.measurement.layer
        file, line = m.place or (None, None)
        return {
            "unit": self.unit, "split": self.split, "without": self.without, "subset": self.subset, "file": file, "line": line,
            "hardware": m.hardware, "run": m.run, "key": m.key, "network": m.network, "kind": layer and layer.kind,
            "layer": layer and layer.digest(), "input_shapes": [list(shape) for shape in self.input_shapes],
            "output_shapes": layer and [list(x.shape) for x in layer.outputs],
            "dtype": layer.dtype if layer else m.dtype, "tf32": m.tf32, "mode": m.mode, "flop": self.flop,
            "energy_j": m.energy_j, "time_s": m.time_s, "predicted_energy_j": self.predicted_energy_j,
            "predicted_low_j": self.predicted_low_j, "predicted_high_j": self.predicted_high_j,
            "predicted_time_s": self.predicted_time_s, "ape_frac": self.ape_frac, "inside": self.inside,
            "covered_frac": self.covered_frac, "extrapolated_frac": self.extrapolated_frac, "kind_layers": self.kind_layers,
            "noise_frac": self.noise_frac, "measured_interval_frac": m.interval_frac, "flags": list(m.flags),
        }  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """All scores of one call of `evaluate`, and the rows that those of wattlayer itself are of."""

    model: str
    model_sha256: str
    scores: tuple[Score, ...]
    predicted: tuple[Judged, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON types."""
        return {
            "schema": 1, "model": {"name": self.model, "sha256": self.model_sha256}, "interval_frac": LEVEL,
            "confidence_frac": CONFIDENCE, "scores": [asdict(score) for score in self.scores],
        }  # fmt: skip

    def to_frame(self) -> pandas.DataFrame:
        """Return one row per score, with the columns of `scores` in the JSON form."""
        import pandas

        return pandas.DataFrame([asdict(score) for score in self.scores])

    def rows(self) -> list[dict[str, Any]]:
        """Return every row that wattlayer was judged on as JSON types, once for each split: what `--rows` writes."""
        return [row.to_json() for row in self.predicted]

    def rows_to_frame(self) -> pandas.DataFrame:
        """Return `rows` as a table."""
        import pandas

        return pandas.DataFrame(self.rows())

    def find(self, split: str, predictor: str = "wattlayer", subset: str = "all", unit: str = "layer") -> Score:
        """Return one score; raise InputError where it was not evaluated."""
        wanted = (unit, split, predictor, subset)
        for score in self.scores:
            if (score.unit, score.split, score.predictor, score.subset) == wanted:
                return score
        raise InputError(f"no score for {' / '.join(wanted)}")


def percentage_errors(measured: Array, predicted: Array) -> dict[str, float]:
    """Return median and 90th-percentile absolute percentage error and signed median, as shares."""
    ratio = predicted / measured - 1
    return {
        "mdape_frac": float(np.median(np.abs(ratio))),
        "p90_ape_frac": float(np.quantile(np.abs(ratio), 0.9)),
        "signed_median_frac": float(np.median(ratio)),
    }


def sampled(measured: Array, predicted: Array, inside: Array | None, cluster: NDArray[np.int64]) -> dict[str, Any]:
    """Return the bounds of the median absolute percentage error and of the share `inside`, of rows [n] alike in a `cluster`."""
    median = of_median(np.abs(predicted / measured - 1), cluster) or (None, None)
    share = (None if inside is None else of_share(inside, cluster)) or (None, None)
    names = ("mdape_low_frac", "mdape_high_frac", "coverage_low_frac", "coverage_high_frac")
    return dict(zip(names, (*median, *share)))


def errors(measured: Array, predicted: Array) -> dict[str, Any]:
    """Return median and 90th-percentile absolute percentage error, signed median, and rank correlations."""
    from scipy.stats import kendalltau, spearmanr

    ranked = len(measured) > 2 and len(set(measured)) > 1 and len(set(predicted)) > 1
    return {
        **percentage_errors(measured, predicted),
        "spearman": float(spearmanr(measured, predicted).statistic) if ranked else None,
        "kendall": float(kendalltau(measured, predicted).statistic) if ranked else None,
    }
