"""Train every shipped model and write its card: `python models/build.py PATH_TO_TABLES [NAME...]`.

The tables are those of public research that the cards name; their rows are not part of this project. `--cards` keeps the
models as they are and evaluates only; `--models` trains only; `--curves` only writes the learning curves of
`transfer/hardware.json` (`build_transfer.py` makes it) into the cards and needs no tables.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed

from wattlayer.dataset import Measurement
from wattlayer.dataset.tables import read_table
from wattlayer.evaluate import evaluate
from wattlayer.evaluate.families import families_of
from wattlayer.evaluate.unseen import older_features
from wattlayer.model import EnergyModel
from wattlayer.report.card import Provenance, model_card
from wattlayer.train.networks import traced_networks

FOLDER = Path(__file__).parent
CURVES_TITLE = "## With few measured layers"
COMMON = ("Float32 only: half precision and int8 are predicted from peak rates and the float32 rows, and marked extrapolated.",)


@dataclass(frozen=True)
class Recipe:
    table: str
    provenance: Provenance
    splits: tuple[str, ...] = ()
    """How whole networks are left out: "family" (torchvision's, by tracing them), "campaign" (one network each), "network"
    (measured whole) or "task" (all of vision, or of language)."""

    def read(self, tables: Path) -> list[Measurement]:
        """The rows: of a campaign of this project's own, or of one of the `tables`."""
        own = FOLDER.parent / self.table
        paths = sorted(own.glob("*.jsonl")) if own.is_dir() else [tables / self.table]
        return [m for path in paths for m in read_table(path, skip_bad_rows=True).measurements]


HEIDELBERG = Provenance(
    "ConstantinNicolai/ml-operator-profiling, commit bd3aace, functional_general_benchmark (half of the published table); no "
    "licence stated; the rows are not redistributed here",
    "nvidia-smi board power, mean over a loop of 10 to 20 s on one fixed input; idle included; PyTorch 2.3.1, CUDA 12.1, eager",
    (
        "Batch 32 only, images of 32 to 299 pixels: other batches are extrapolation.",
        "Weights and input stay warm in L2, unlike in a network.",
        "Batch norm was measured in train mode; in eval mode it moves fewer bytes. One campaign's rows carry the train-mode mark "
        "but are faster than three passes over DRAM allow, so they probably ran in eval mode; they are used as marked.",
        "Residual adds, concatenations, attention and softmax were not measured: they get the scaffold's cost.",
        *COMMON,
    ),
)
IRENE = Provenance(
    "StonyBrookNLP/irene, commit 3e013f1, original datasets (Cao et al., ACL 2021); no licence stated for the data; the rows "
    "are not redistributed here",
    "nvidia-smi board power; idle included; the device's name was inferred from its clocks",
    (
        "Transformer primitives only (BERT, RoBERTa, DistilBERT, GPT-2 families), batch 8 to 32, 32 to 256 tokens, hidden 768.",
        "The table repeats a reading for every layer that is shaped alike: it counts once here. Some readings stand under "
        "several shapes of as many FLOP and bytes: those shapes stay on one side of the split by layers.",
        "Both products of attention carry one figure in the table; it is taken for query x key.",
        "GELU, adds, views and convolutions were not measured: they get the scaffold's cost.",
        *COMMON,
    ),
)
RECIPES = {
    "a30": Recipe("heidelberg/layers.csv", HEIDELBERG, splits=("family",)),
    "rtx2080ti": Recipe("heidelberg/layers.csv", Provenance(
        HEIDELBERG.source, HEIDELBERG.meter,
        ("Two campaigns differ by 1.85 x in board power at equal time; which state a board is in cannot be told from here.",
         *HEIDELBERG.limits),
    ), splits=("family",)),
    "gtx1080ti": Recipe("irene/ops.csv.gz", IRENE, splits=("campaign",)),
    "gtx1070": Recipe("irene/ops.csv.gz", IRENE, splits=("campaign",)),
    "xeon-gold-5120": Recipe("getzner/layers_cpu.csv", Provenance(
        "JohannesGetzner/dl-energy-estimator, commit 2279b0a; no licence stated; the rows are not redistributed here",
        "RAPL of both packages; PyTorch on the CPU, float32, batch 1 to 512",
        ("RAPL power is nearly constant (about 75 W): this is in effect a model of time.",
         "Rows whose power x duration differs from their energy by more than 10 % were left out.",
         "Products and convolutions take 16 to 33 times as long as both packages' peak allows, at a third of their power limit: "
         "about what one of their 28 cores does. A program that uses all cores is quicker and draws more.",
         "Convolutions, linear layers, max pooling, ReLU, sigmoid, tanh and softmax only.", *COMMON),
    )),
    "jetson-nano": Recipe("neurstruc/conv2d_layers.csv", Provenance(
        "NEUSoftGreenAI/NeurstrucEnergy, commit 94c5c2f; MIT licence",
        "external DC meter over 4 s of back-to-back forward passes; idle included; a Jetson-Nano-class board",
        ("Convolutions only, batch 1: every other layer gets the scaffold's cost, and `covered_frac` says so in every answer.",
         "Convolutions have a bias, PyTorch's default (the source's `data/conv2d_energy_profiling.py`).",
         "Each call was waited for, as those within a network are not: sums of small layers hold waits that a pass has once.",
         *COMMON),
    )),
    "h200-sxm": Recipe("data/h200-sxm", Provenance(
        "measured by this project, `data/h200-sxm` (its rows are here)",
        "NVML's energy counter between its steps, steady load in CUDA graphs, weights cold; idle included (data/README.md)",
        ("One board, one evening, one host: another board of this name took 5.8 % less energy for the same layers "
         "(data/README.md), and NVIDIA states the counter's absolute scale to 5 %. Intervals are of this board.",
         "Float32 with and without TF32, float16 and bfloat16; contiguous NCHW images; int8 and float8 were not measured.",
         "Some 430 shapes of the plan were not reached: language models at prefill and decode are thin.",
         "Networks in graph mode count where they kept the device busy: 24 passes, at batch 1 BERT and OPT in float32 alone.",
         "A layer repeated alone can sit on the power limit where its network would not; such rows are used as they are.",
         "Waiting for the host in eager mode is that of this host and PyTorch 2.11."),
    ), splits=("network", "task")),
}  # fmt: skip
"""Every shipped model: its table, where that came from and what to mind."""


def main(arguments: list[str]) -> None:
    flags = {a for a in arguments if a.startswith("--")}
    if "--curves" in flags:
        return curves()
    tables, *names = [a for a in arguments if not a.startswith("--")]
    names, folder = names or list(RECIPES), Path(tables)
    if "--cards" not in flags:
        # side by side: much of what a model does on its own runs on one core
        for told in Parallel(n_jobs=-1, return_as="generator")(delayed(train)(name, folder) for name in names):
            print(told, flush=True)
    if "--models" not in flags:
        for name in names:
            card(name, folder)
        readme()


def train(name: str, tables: Path) -> str:
    """Train and save the model of `name`; return a line that says how long it took."""
    start, recipe = time.perf_counter(), RECIPES[name]
    rows = rows_of(name, tables)
    EnergyModel.train(rows, seed=0, name=name, source=recipe.provenance.source).save(FOLDER / f"{name}.json")
    return f"{name}: {time.perf_counter() - start:.0f} s"


def card(name: str, tables: Path) -> None:
    """Evaluate the recipe of `name` on its splits and write its card."""
    recipe, rows = RECIPES[name], rows_of(name, tables)
    families = families_of(m.layer for m in rows if m.layer) if "family" in recipe.splits else None
    splits = ("given", "layer", "size", *recipe.splits)
    model = EnergyModel.load(FOLDER / f"{name}.json")
    evaluation = evaluate(model, rows, traced_networks(rows), splits, families, progress=lambda text: print(text, flush=True))
    scores = FOLDER / "evaluations" / f"{name}.json"
    scores.parent.mkdir(exist_ok=True)
    scores.write_text(json.dumps(evaluation.to_json(), indent=1) + "\n")
    (FOLDER / f"{name}.md").write_text(model_card(model, evaluation, recipe.provenance) + curves_section(name))


def rows_of(name: str, tables: Path) -> list[Measurement]:
    return [m for m in RECIPES[name].read(tables) if m.hardware == name]


def curves() -> None:
    """Write the learning curves into the cards as they are."""
    for name in RECIPES:
        path = FOLDER / f"{name}.md"
        path.write_text(path.read_text().partition(CURVES_TITLE)[0].rstrip("\n") + "\n" + curves_section(name))


def curves_section(name: str) -> str:
    """Return how good models of a device are that learn from others and from few of its layers, as Markdown; "" where unknown."""
    record = json.loads((FOLDER / "transfer" / "hardware.json").read_text())
    own = [x for x in record["curves"] if x["hardware"] == name]
    if not own:
        return ""
    lines = [
        "", CURVES_TITLE, "",
        "How good a model of this device would be if it had not been measured (0 layers: its data sheet and the other boards),",
        "or calibrated with few measured layers, chosen at random or as `wattlayer measure --calibration` does (telling).",
        "Median error of a layer's energy over the rows that were not used: the median of the draws, least and most in brackets.",
        *older_features(record["curves_features"]), "",
        "| measured layers | predictor | draws | rows | median | p90 | in the interval |", "|--:|---|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    return "\n".join([*lines, *(_curve_row(x) for x in own), ""])


def _curve_row(x: dict[str, float]) -> str:
    spread = f" ({x['least_mdape_frac']:.1%} to {x['most_mdape_frac']:.1%})" if x["draws"] > 1 else ""
    inside = "–" if x["coverage_frac"] is None else f"{x['coverage_frac']:.1%}"
    error = f"{x['mdape_frac']:.1%}{spread} | {x['p90_ape_frac']:.1%}"
    return f"| {x['layers']} | {x['predictor']} | {x['draws']} | {x['rows']} | {error} | {inside} |"


def readme() -> None:
    """Write the table of accuracy into README.md from the evaluations that the cards were written from."""
    path = FOLDER.parent / "README.md"
    before, rest = path.read_text().split("<!-- accuracy -->")
    after = rest.split("<!-- /accuracy -->")[1]
    path.write_text(f"{before}<!-- accuracy -->\n{accuracy_table()}<!-- /accuracy -->{after}")


def accuracy_table() -> str:
    """Return one line a model, as Markdown; every figure is of rows that its model had not seen."""
    head = (
        "| model | unseen layers | ten lines of XGBoost | unseen networks' layers | largest 20 % | in the 90 % interval "
        "| unseen networks, graph / eager |"
    )
    lines = [head, "|---|--:|--:|--:|--:|--:|--:|"]
    for name in RECIPES:
        scores = json.loads((FOLDER / "evaluations" / f"{name}.json").read_text())["scores"]
        found = {(s["split"], s["predictor"]): s for s in scores if s["subset"] == "all" and s["unit"] == "layer"}
        whole_passes = [s for s in scores if s["unit"] == "network" and s["predictor"] == "wattlayer"]
        passes = {s["subset"]: s for s in whole_passes if s["split"] == "network"}
        whole = found.get(("family", "wattlayer")) or found.get(("campaign", "wattlayer"))
        inside = [s["coverage_frac"] for s in (found["layer", "wattlayer"], whole, found["size", "wattlayer"]) if s]
        cells = (
            _figures(found["layer", "wattlayer"]), _figures(found["layer", "XGBoost, raw shapes"]), _figures(whole),
            _figures(found["size", "wattlayer"]), " / ".join(f"{x:.0%}" for x in inside),
            " / ".join(_figures(passes[mode]) for mode in ("graph", "eager") if mode in passes) or "–",
        )  # fmt: skip
        lines.append(f"| [`{name}`](models/{name}.md) | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _figures(score: dict[str, float] | None) -> str:
    return f"{score['mdape_frac']:.1%} ({score['p90_ape_frac']:.0%})" if score else "–"


if __name__ == "__main__":
    main(sys.argv[1:])
