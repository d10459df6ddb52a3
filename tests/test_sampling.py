"""Bounds of error figures: exact where rows are independent, wide enough where they are not, and shown beside each figure."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest
from test_evaluate import passes

from wattlayer.evaluate import evaluate
from wattlayer.evaluate.sampling import CONFIDENCE, MIN_CLUSTERS, of_median, of_share
from wattlayer.model import EnergyModel
from wattlayer.report.card import model_card
from wattlayer.report.quantities import between
from wattlayer.report.terminal import evaluation_table


@pytest.mark.parametrize("hits, n", [(0, 6), (7, 9), (27, 30), (120, 120)])
def test_bounds_of_a_share_of_independent_rows_are_clopper_and_pearsons(hits, n):
    exact = binomtest(hits, n).proportion_ci(CONFIDENCE, "exact")
    assert of_share(np.arange(n) < hits, np.arange(n)) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("n", [*range(6, 60), 100, 399])
def test_bounds_of_a_median_of_independent_rows_are_the_order_statistics_of_the_binomial(n):
    low, high = of_median(np.random.default_rng(n).permutation(n) + 1.0, np.arange(n))
    outside = [2 * binom.cdf(rank - 1, n, 0.5) for rank in (low, low + 1)]
    assert high == n + 1 - low and outside[0] <= 1 - CONFIDENCE < outside[1], "the narrowest that hold it often enough"


def test_equal_values_do_not_narrow_the_bounds_of_a_median():
    value = np.concatenate([np.zeros(55), np.arange(1.0, 46.0)])
    assert of_median(value, np.arange(100)) == (0, 6), "the 40th and the 61st"
    assert of_median(-value, np.arange(100)) == (-6, 0)
    assert of_median(np.ones(100), np.arange(100)) == (1, 1)


def test_rows_of_clusters_are_worth_as_many_as_would_scatter_as_much():
    """Two thirds of each of nine layers' rows hit, or all, or none; written out by hand."""
    hit = np.array([[1, 1, 0]] * 3 + [[1, 1, 1]] * 4 + [[0, 0, 0]] * 2, dtype=float)
    share, squares = 18 / 27, 4 * 1**2 + 2 * 2**2  # off by 0, 3 - 2 and 0 - 2 rows
    variance = 9 / 8 * squares / 27**2
    effective = 27 / 26 * share * (1 - share) / variance
    assert 12 < effective < 13  # more than the nine layers, which therefore cap it
    x = share * 9
    low, high = beta.ppf(0.025, x, 9 - x + 1), beta.ppf(0.975, x + 1, 9 - x)
    assert of_share(hit.ravel(), np.repeat(np.arange(9), 3)) == pytest.approx((low, high))
    unlike = np.repeat([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0], 3)
    effective = 27 / 26 * (2 / 9) / (9 / 8 * (6 * 1**2 + 3 * 2**2) / 27**2)
    assert effective < 9
    x = 2 / 3 * effective
    low, high = beta.ppf(0.025, x, effective - x + 1), beta.ppf(0.975, x + 1, effective - x)
    assert of_share(unlike, np.repeat(np.arange(9), 3)) == pytest.approx((low, high))


@pytest.mark.parametrize("of", [of_share, of_median])
def test_repeats_of_layers_tell_no_more_than_the_layers(of):
    value, layers = np.random.default_rng(1).random(40), np.arange(40)
    hit = value < 0.8 if of is of_share else value
    alone, repeated = of(hit, layers), of(np.repeat(hit, 25), np.repeat(layers, 25))
    assert repeated == pytest.approx(alone, rel=0.1) and repeated[0] <= alone[0] and alone[1] <= repeated[1]
    as_if_independent = of(np.repeat(hit, 25), np.arange(1000))
    assert as_if_independent[1] - as_if_independent[0] < 0.4 * (repeated[1] - repeated[0])


@pytest.mark.parametrize(
    "repeats", [lambda drawn: drawn.integers(1, 12, 30), lambda drawn: np.minimum(drawn.pareto(1, 120) + 1, 200).astype(int)]
)
def test_bounds_hold_what_samples_of_alike_rows_were_drawn_from(repeats):
    drawn, held = np.random.default_rng(2), np.full((4, 400), np.nan)
    for i in range(held.shape[1]):
        times = repeats(drawn)
        layer = np.repeat(np.arange(len(times)), times)
        error = np.abs(np.sqrt(0.8) * drawn.normal(size=len(times))[layer] + np.sqrt(0.2) * drawn.normal(size=len(layer)))
        for j, of in enumerate((layer, np.arange(len(layer)))):
            if (median := of_median(error, of)) is None:  # few layers have nearly all of the rows
                continue
            (low, high), (least, most) = median, of_share(error < 1.6449, of)
            held[2 * j : 2 * j + 2, i] = low <= 0.6745 <= high, least <= 0.9 <= most
    assert np.isfinite(held).mean() > 0.95
    of_layers, of_rows = np.nanmean(held, axis=1).reshape(2, 2)
    assert (of_layers >= CONFIDENCE - 0.02).all() and (of_rows < 0.85).all()


@pytest.mark.parametrize("layers", [1, MIN_CLUSTERS - 1])
def test_few_layers_have_no_bounds(layers):
    of = np.arange(100) % layers
    assert of_median(np.arange(100.0), of) is None and of_share(np.arange(100) < 90, of) is None
    assert of_share(np.ones(100), np.arange(100) % MIN_CLUSTERS) is not None


@pytest.fixture(scope="module")
def judged(device, layers):
    """A model and what an evaluation says of it: each layer measured twice, with and without TF32."""
    rows = device.measure([y for x in layers[:60] for y in (x.with_tf32("none"), x.with_tf32("all"))])
    model = EnergyModel.train(rows, seed=0, name="mine")
    return model, evaluate(model, [*rows, *device.measure(layers[60:70])], splits=["given"], baselines=False)


def test_scores_of_layers_have_the_bounds_of_their_rows(judged):
    _, evaluation = judged
    assert evaluation.to_json()["confidence_frac"] == CONFIDENCE
    for score in evaluation.scores:
        rows = [x for x in evaluation.predicted if score.subset in ("all", x.subset)]
        number: dict[object, int] = {}
        layer = np.array([number.setdefault(x.measurement.layer.with_tf32("none"), len(number)) for x in rows])
        median = of_median(np.array([x.ape_frac for x in rows]), layer) or (None, None)
        share = of_share(np.array([x.inside for x in rows]), layer) or (None, None)
        assert (score.mdape_low_frac, score.mdape_high_frac) == median
        assert (score.coverage_low_frac, score.coverage_high_frac) == share
        assert (median[0] is None) == (len(number) < MIN_CLUSTERS)
        assert median[0] is None or median[0] <= score.mdape_frac <= median[1]
    whole = evaluation.find("given")
    assert len(number) < whole.rows and whole.coverage_low_frac < whole.coverage_frac <= whole.coverage_high_frac


def test_passes_of_one_network_count_as_one(judged, device, layers):
    model, _ = judged
    few = passes(layers, device.measure(layers))
    more = [(replace(m, network=f"{m.network} again"), replace(t, network=f"{m.network} again")) for m, t in few]
    assert evaluate(model, [], few).find("given", unit="network").mdape_low_frac is None, "of four networks, eight passes"
    evaluation = evaluate(model, [], [*few, *more])
    for subset, own in (("all", evaluation.predicted), ("eager", [x for x in evaluation.predicted if x.subset == "eager"])):
        name = np.unique([x.measurement.network for x in own], return_inverse=True)[1]
        score = evaluation.find("given", subset=subset, unit="network")
        assert (score.mdape_low_frac, score.mdape_high_frac) == of_median(np.array([x.ape_frac for x in own]), name)
        assert (score.coverage_low_frac, score.coverage_high_frac) == of_share(np.array([x.inside for x in own]), name)


def test_bounds_stand_beside_the_figures_in_table_and_card(judged):
    from rich.console import Console

    model, evaluation = judged
    whole = evaluation.find("given")
    median = between(whole.mdape_low_frac, whole.mdape_high_frac)
    share = between(whole.coverage_low_frac, whole.coverage_high_frac)
    console = Console(file=io.StringIO(), width=250)
    console.print(evaluation_table(evaluation))
    text = console.file.getvalue()
    figures, below = next(x for x in zip(text.splitlines(), text.splitlines()[1:]) if "wattlayer  all" in x[0])
    assert f" {whole.mdape_frac:.1%} " in figures and f" {whole.coverage_frac:.1%}" in figures
    assert below.split() == [f"({median})", f"({share})"]
    assert f"at {CONFIDENCE:.0%}" in text and "()" not in text
    card = model_card(model, evaluation)
    assert f"| {median} | {share} |" in card and f"fewer than {MIN_CLUSTERS} layers" in card
    bare = replace(evaluation, scores=tuple(replace(s, mdape_low_frac=None, coverage_high_frac=None) for s in evaluation.scores))
    assert "| – | – |" in model_card(model, bare)
    tables = [x.splitlines() for x in card.split("\n\n") if x.startswith("|")]
    assert tables and all(len({line.count("|") for line in table}) == 1 for table in tables), "a cell under each head"


def test_what_is_unknown_has_no_bounds():
    assert between(0.0693, 0.0842) == "6.9–8.4%" and between(None, 0.1) == between(0.1, None) == ""
