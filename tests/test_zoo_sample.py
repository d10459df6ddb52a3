"""Sixty networks of three libraries, one of each family and task, smaller ones first: what every change must still trace.

The whole libraries take minutes (`wattlayer zoo`); this sample takes seconds.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from wattlayer.zoo import visit

LARGEST_UNKNOWN_FRAC = 0.005
"""Of the bytes of a network, in kinds of operators without a FLOP formula."""

SAMPLE = {
    "torchvision": {
        "mobile": "mobilenet_v3_small",
        "residual": "resnet18",
        "scaled": "efficientnet_b0",
        "dense": "densenet121",
        "transformer": "vit_b_32",
        "windows": "swin_t",
        "segmentation": "lraspp_mobilenet_v3_large",
        "atrous": "deeplabv3_mobilenet_v3_large",
        "video": "r2plus1d_18",
        "optical flow": "raft_small",
    },
    "timm": {
        "residual": "resnet26d",
        "searched": "tf_efficientnet_lite0",
        "mobile": "mobilenetv3_small_050",
        "ghost": "ghostnet_100",
        "regular": "regnetx_002",
        "reparametrised": "repvgg_a0",
        "convolutional": "convnext_atto",
        "high resolution": "hrnet_w18_small",
        "transformer": "vit_tiny_patch16_224",
        "relative": "eva02_tiny_patch14_224",
        "windows": "swin_tiny_patch4_window7_224",
        "axes": "maxvit_rmlp_nano_rw_256",
        "channels": "xcit_nano_12_p16_224",
        "pyramid": "pvt_v2_b0",
        "hybrid": "mobilevit_xxs",
        "cross": "crossvit_tiny_240",
        "perceptron": "mixer_s32_224",
        "pooling": "poolformer_s12",
        "recurrent": "sequencer2d_s",
        "halo": "halonet26t",
    },
    "hf": {
        "text encoder": "bert",
        "disentangled": "deberta-v2",
        "sparse attention": "longformer",
        "fourier": "fnet",
        "text decoder": "gpt2",
        "grouped queries": "llama",
        "encoder-decoder": "t5",
        "denoising": "bart",
        "experts in a loop": "switch_transformers",
        "grouped experts": "mixtral",
        "state space": "mamba",
        "linear attention": "nystromformer",
        "hybrid": "jamba",
        "image": "vit",
        "convolutional": "convnextv2",
        "segmentation": "segformer",
        "detection": "detr",
        "depth": "dpt",
        "promptable": "sam2",
        "patches": "siglip2_vision_model",
        "video": "timesformer",
        "speech": "wav2vec2",
        "speech to text": "whisper",
        "spectrogram": "audio-spectrogram-transformer",
        "codec": "dac",
        "image and text": "clip",
        "image in text": "blip-2",
        "document": "layoutlm",
        "time series": "patchtst",
        "control": "decision_transformer",
    },
}
LIBRARIES = {"torchvision": "torchvision", "timm": "timm", "hf": "transformers"}
NETWORKS = [(f"{source}:{name}") for source, families in SAMPLE.items() for name in families.values()]


def test_the_sample_is_sixty_networks() -> None:
    assert [len(families) for families in SAMPLE.values()] == [10, 20, 30]
    assert len(set(NETWORKS)) == 60


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_traced_and_counted(name: str) -> None:
    library = LIBRARIES[name.partition(":")[0]]
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    outcome = visit(name)
    assert outcome.traced, outcome.reason
    assert outcome.flop > 0 and outcome.calls > 0
    assert outcome.unknown_bytes_frac <= LARGEST_UNKNOWN_FRAC, outcome.unknown_kinds
    assert outcome.unread_frac < 0.5
