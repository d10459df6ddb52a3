"""Whole blocks and encoders on GTX 1070 and 1080 Ti, against measured energy: `python models/check_modules.py PATH_TO_TABLES`.

IrEne (Cao et al., ACL 2021) also measured the modules that its primitives come from. Their energies are sums here: primitives
as the models learned them, and the scaffold's cost for what was never measured alone (GELU, adds, views, and the second product
of attention, whose energy the table gives with the first). The primitives of these networks were trained on, the modules were
not: this checks the sum, not unseen networks (the split `campaign` on the cards does that).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wattlayer.adapters.torchvision import import_torchvision
from wattlayer.dataset.tables.irene import as_it_ran
from wattlayer.estimate import Estimate, estimate
from wattlayer.model import load_model
from wattlayer.trace import trace

DEVICES = {"device_1": "gtx1070", "device_2": "gtx1080ti"}
NETWORKS: dict[str, tuple[str, dict[str, int]]] = {
    "bert-base-uncased": ("bert", {}), "roberta-base": ("roberta", {}), "distilbert-base-uncased": ("distilbert", {}),
    "openai-gpt": ("openai-gpt", {}), "gpt2": ("gpt2", {}), "distilgpt2": ("gpt2", {"n_layer": 6}),
}  # fmt: skip
ENCODERS = ("bert", "roberta", "distilbert")
KINDS = {
    "encoder": ("BertEncoder", "RobertaEncoder", "Transformer"),
    "block": ("BertLayer", "RobertaLayer", "TransformerBlock", "Block"),
    "attention": ("BertAttention", "RobertaAttention", "MultiHeadSelfAttention", "Attention"),
    "feed-forward": ("MLP", "FFN"),
}


def main(tables: Path) -> None:
    """Print one line for each device, network and kind of module, and for each device and kind over all networks."""
    rows = pd.read_csv(tables / "irene" / "modules.csv.gz")
    rows = rows[rows.model_name.isin(NETWORKS) & rows.op.isin([x for names in KINDS.values() for x in names])]
    keys = ["device", "model_name", "batch_size", "seq_len"]
    errors = pd.DataFrame([x for key, group in rows.groupby(keys) for x in checked(key, group)])
    for over in (["device", "kind", "network"], ["device", "kind"]):
        for names, part in errors.groupby(over):
            print(f"{' '.join(names):42s} {len(part):5d} modules: median error {part.error.abs().median():.1%}, "
                  f"signed {part.error.median():+.1%}, p90 {part.error.abs().quantile(0.9):.1%}, "
                  f"{part.covered.mean():.0%} of the energy in measured kinds")  # fmt: skip


def checked(key: tuple[Any, ...], rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the error of every module of one network at one batch and length; repeats count by their median."""
    device, name, batch, length = key
    answer = predicted(DEVICES[device], name, int(batch), int(length))
    paths = np.array([f"{path}." for path in answer.trace.paths])
    for (scope, op), same in rows.groupby(["scope", "op"]):
        inside = np.array([x.startswith(f"{scope}.") for x in paths])
        if not inside.any():
            raise SystemExit(f"{name} has no module {scope}")
        energy_j = float(answer.layer_energy_j[inside].sum())
        kind = next(k for k, names in KINDS.items() if op in names)
        covered = float(answer.layer_energy_j[inside & answer.covered].sum()) / energy_j
        measured_j = float(same.gpu_energy_nvidia_smi_J.median())
        yield {"device": DEVICES[device], "network": name, "kind": kind, "error": energy_j / measured_j - 1, "covered": covered}


def predicted(hardware: str, name: str, batch: int, length: int) -> Estimate:
    """Price one forward pass as it was run: eager attention (matmul, softmax, matmul), float32.

    The encoders of that time added a mask that hides nothing to their scores (DistilBERT filled it in), which today's leave out
    unless they are given one. Layer norms of that PyTorch (1.7.1) took the moments of rows apart.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    import_torchvision()
    family, sizes = NETWORKS[name]
    with torch.device("meta"):
        network = AutoModel.from_config(AutoConfig.for_model(family, **sizes), attn_implementation="eager").eval()
        tokens = torch.zeros(batch, length, dtype=torch.int64)
        kwargs = {"attention_mask": torch.zeros(batch, 1, 1, length)} if family in ENCODERS else {}
    today = trace(network, tokens, kwargs=kwargs, tf32="none")
    layers = [as_it_ran(x) if x.kind == "layer_norm" else x for x in today.layers]
    return estimate(replace(today, layers=tuple(layers)), load_model(hardware), run=name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
