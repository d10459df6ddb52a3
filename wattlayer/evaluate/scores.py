"""What an evaluation says: one record a predictor, split and group of kinds, and the errors in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..features.columns import Array
from ..model.intervals import LEVEL

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

    @property
    def noise_of_error_frac(self) -> float | None:
        """The noise floor over the median error: 1 where nothing but the measurements' noise is left."""
        return None if self.noise_floor_frac is None or not self.mdape_frac else self.noise_floor_frac / self.mdape_frac


@dataclass(frozen=True)
class Predicted:
    """wattlayer's predictions of one split beside what was measured; arrays are [n_rows]. What plots are drawn from."""

    split: str
    groups: tuple[str, ...]
    flop: Array
    measured_j: Array
    predicted_j: Array


@dataclass(frozen=True)
class Evaluation:
    """All scores of one call of `evaluate`, and the predictions of layers that they were taken from."""

    model: str
    model_sha256: str
    scores: tuple[Score, ...]
    predicted: tuple[Predicted, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON types."""
        return {
            "schema": 1, "model": {"name": self.model, "sha256": self.model_sha256}, "interval_frac": LEVEL,
            "scores": [asdict(score) for score in self.scores],
        }  # fmt: skip

    def to_frame(self) -> pandas.DataFrame:
        """Return one row per score, with the columns of `scores` in the JSON form."""
        import pandas

        return pandas.DataFrame([asdict(score) for score in self.scores])

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


def errors(measured: Array, predicted: Array) -> dict[str, Any]:
    """Return median and 90th-percentile absolute percentage error, signed median, and rank correlations."""
    from scipy.stats import kendalltau, spearmanr

    ranked = len(measured) > 2 and len(set(measured)) > 1 and len(set(predicted)) > 1
    return {
        **percentage_errors(measured, predicted),
        "spearman": float(spearmanr(measured, predicted).statistic) if ranked else None,
        "kendall": float(kendalltau(measured, predicted).statistic) if ranked else None,
    }
