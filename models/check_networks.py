"""Networks that the Jetson model never saw, against measured energy: `python models/check_networks.py PATH_TO_TABLES`.

NeurstrucEnergy (MIT) measured five CNNs three times each at batch 1, in train mode (its `data/energy_profiling.py` never calls
`eval`). torchvision's and timm's architectures of these names stand in for its own lists of layers, at 224 x 224 pixels. Only
convolutions were measured on that board: everything else in these sums is the scaffold's cost.

What was measured there is more than inference. A pass walks a graph in Python: it sums every row and every column of an adjacency
matrix and scans a row and a column of it for each layer. For as many layers as GoogLeNet has (195) that alone takes 10 ms on an
x86 core of 2026, several times as much on the board's Cortex-A57, at no less than its idle power. These sums know nothing of it.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from statistics import median

from wattlayer.estimate import estimate
from wattlayer.model import load_model
from wattlayer.predict import load_network
from wattlayer.trace import trace

NETWORKS = {
    "InceptionV1": "torchvision:googlenet", "MobileNetV1": "timm:mobilenetv1_100", "MobileNetV2": "torchvision:mobilenet_v2",
    "MobileNetV3-SMALL": "torchvision:mobilenet_v3_small", "ResNet18": "torchvision:resnet18",
}  # fmt: skip


def main(tables: Path) -> None:
    """Print one line a network and the median error."""
    model, errors = load_model("jetson-nano"), []
    with (tables / "neurstruc" / "networks_custom_energy.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            measured_j = median(float(row[column]) for column in ("1", "2", "3"))
            network = load_network(NETWORKS[row["name"]])
            traced = trace(network.module, *network.args, tf32="none", train_mode=True, network=network.name)
            e = estimate(traced, model)
            low_j, high_j = e.interval_j
            errors.append(abs(e.energy_j / measured_j - 1))
            inside = "inside" if low_j <= measured_j <= high_j else "outside"
            print(f"{row['name']:18s} measured {measured_j:.3f} J, predicted {e.energy_j:.3f} J ({low_j:.3f} to {high_j:.3f}), "
                  f"{inside}, {e.covered_frac:.0%} in measured kinds")  # fmt: skip
    print(f"{len(errors)} networks: median error {median(errors):.1%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
