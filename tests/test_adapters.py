"""From a network's name to a module on the meta device with its inputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch

from wattlayer import adapters
from wattlayer.adapters import InputSize, Network, hub, resolve
from wattlayer.adapters.source import build
from wattlayer.crosscheck import count_with_torch, torch_counts
from wattlayer.errors import InputError
from wattlayer.layer import Layer
from wattlayer.predict import trace_name
from wattlayer.trace import Trace, trace

LLAMA_405B = Path(__file__).parent / "data" / "llama-3-405b"

TORCHVISION = """alexnet resnet18 resnet50 resnext50_32x4d densenet121 mobilenet_v2 mobilenet_v3_small efficientnet_b0
    shufflenet_v2_x0_5 squeezenet1_1 googlenet mnasnet0_5 regnet_y_400mf convnext_tiny vit_b_16 swin_t swin_v2_t maxvit_t
    fcn_resnet50 deeplabv3_mobilenet_v3_large r3d_18 mvit_v1_b fasterrcnn_mobilenet_v3_large_320_fpn""".split()  # noqa: SIM905
TIMM = """timm:vit_tiny_patch16_224 timm:mixer_s16_224 timm:levit_128s timm:xcit_nano_12_p16_224 timm:halonet26t
    timm:crossvit_tiny_240 timm:mobilevit_xxs timm:sequencer2d_s timm:repvgg_a0 timm:eva02_tiny_patch14_224
    """.split()  # noqa: SIM905
HUGGING_FACE = """hf:bert hf:gpt2 hf:t5 hf:distilbert hf:albert hf:deberta hf:vit hf:clip hf:whisper hf:wav2vec2 hf:segformer
    hf:mixtral hf:bart""".split()  # noqa: SIM905
SWEPT_TYPES = """albert aimv2 align altclip audio-spectrogram-transformer bart beit bert big_bird
    bit blenderbot-small blip bloom camembert clip clipseg codegen cohere
    convbert convnext convnextv2 ctrl cvt data2vec-audio data2vec-text data2vec-vision deberta
    deberta-v2 deepseek_v3 deit depth_anything detr dinov2 dinov3_vit distilbert dpt
    electra ernie esm falcon falcon_mamba fnet focalnet funnel gemma
    gemma2 gemma3_text glm4 glpn gpt2 gpt_neo gpt_neox gpt_oss gptj
    granite hubert ibert internlm3 jamba layoutlm led levit llama
    longformer longt5 m2m_100 mamba mamba2 marian mbart mistral mixtral
    mobilebert mobilenet_v2 mobilevit modernbert mpnet mpt mra mt5 nystromformer
    olmo2 olmoe opt pegasus phi phi3 poolformer pvt qwen2
    qwen2_moe qwen3 qwen3_moe qwen3_next reformer regnet rembert resnet roberta
    roformer rwkv segformer sew siglip siglip_vision_model smollm3 speech_to_text squeezebert
    starcoder2 swin swinv2 swiftformer t5 umt5 unispeech upernet vilt
    vit vit_mae wav2vec2 wav2vec2-conformer wavlm whisper xglm xlm xlm-roberta
    xlnet xlstm xmod yolos yoso zamba""".split()  # noqa: SIM905


def needs(name: str) -> None:
    """Skip where the library that a network comes from is missing."""
    library = {"timm": "timm", "hf": "transformers"}.get(name.partition(":")[0], "torchvision")
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


def load(name: str, **size: Any) -> Network:
    needs(name)
    return resolve(name, InputSize(**size))


def traced(network: Network) -> Trace:
    return trace(network.module, *network.args, kwargs=network.kwargs, network=network.name)


@pytest.mark.parametrize("name", [*TORCHVISION, *TIMM, *HUGGING_FACE])
def test_flop_equals_flop_counter(name: str) -> None:
    network = load(name, batch=2)
    found = traced(network)
    assert sum(x.flop * calls for x, calls in found.unique().items() if torch_counts(x)) == count_with_torch(network)
    assert all(x.is_meta for x in network.module.parameters())
    assert {x.kind for x in found.unique() if not x.known} == set()
    assert found.batch == 2
    assert all(Layer.from_json(x.to_json()) == x for x in found.unique())


@pytest.mark.slow
@pytest.mark.parametrize("library", ["torchvision", "timm", "hf"])
def test_flop_equals_flop_counter_everywhere(library: str) -> None:
    needs(f"{library}:")
    source = import_module(f"wattlayer.adapters.{adapters.SOURCES[library]}")
    names = {"torchvision": source.names(), "timm": source.names()[::12], "hf": SWEPT_TYPES}[library]
    differ, unknown, ran = {}, Counter(), 0
    for name in names:
        try:
            network = source.load(name, InputSize())
            found = traced(network)
        except InputError:
            continue
        ran += 1
        unknown.update(x.kind for x in found.unique() if not x.known)
        ours = sum(x.flop * calls for x, calls in found.unique().items() if torch_counts(x))
        if ours != (theirs := count_with_torch(network)):
            differ[name] = ours, theirs
    print(f"{library}: {ran} of {len(names)} networks; kinds without a formula: {dict(unknown)}")
    assert differ == {}
    assert ran > 0.75 * len(names)


# --- names


def test_bare_name_is_looked_up_in_torchvision_then_timm() -> None:
    assert load("resnet18").name == "torchvision:resnet18"
    needs("timm:")
    assert load("vit_tiny_patch16_224").name == "timm:vit_tiny_patch16_224"
    assert load("timm:resnet18.a1_in1k").name == "timm:resnet18.a1_in1k"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5O", r"'resnet5O' is no network of .*; nearest: resnet50"),
        ("torchvision:resnet5O", r"torchvision has no network 'resnet5O'; nearest: resnet50"),
        ("timm:vit_tiny_patch16_225", r"timm has no network .*; nearest: vit_tiny_patch16_224"),
        ("keras:resnet50", r"no source 'keras'; known: torchvision, timm, hf, diffusers, path/to/file.py:factory"),
        ("net.pt2", r"net.pt2: there is no such file"),
        ("some/config.json", r"written hf:some/config.json"),
        (
            "torchvision:quantized_resnet50",
            r"runs int8 kernels .*: take torchvision:resnet50, the same network in floating point",
        ),
        ("torchvision:qqqqqq", r"no network 'qqqqqq'; torchvision.models.list_models\(\) lists them"),
        ("timm:qqqqqq", r"no network 'qqqqqq'; timm.list_models\(\) lists them"),
        ("qqqqqq", r"'qqqqqq' is no network of torchvision.*; others are written hf:ID, path/to/file.py:factory, net.onnx or"),
        ("hf:no_such_folder/config.json", r"no_such_folder/config.json: there is no such file"),
    ],
)
def test_unknown_name_says_so_in_one_line(name: str, message: str) -> None:
    needs(name)
    with pytest.raises(InputError, match=message) as caught:
        resolve(name, InputSize())
    assert "\n" not in str(caught.value)


def test_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)
    for name, extra in (("timm:resnet18", "timm"), ("hf:bert", "transformers")):
        with pytest.raises(InputError, match=rf"pip install 'wattlayer\[{extra}\]'"):
            resolve(name, InputSize())


@pytest.mark.parametrize(("missing", "name"), [("timm", "resnet18"), ("torchvision", "resnet18")])
def test_bare_name_works_with_one_library(missing: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"timm": "torchvision", "torchvision": "timm"}[missing]
    needs(f"{other}:")
    import_module(f"wattlayer.adapters.{other}").names()
    monkeypatch.setitem(sys.modules, missing, None)
    assert resolve(name, InputSize()).name == f"{other}:{name}"
    with pytest.raises(InputError, match=rf"nearest: .*\({missing} is not installed: pip install 'wattlayer\[{missing}\]'\)"):
        resolve("resnet5O", InputSize())


def test_no_library_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match="neither torchvision nor timm is installed"):
        resolve("resnet18", InputSize())


def test_torchvision_imports_no_other_library() -> None:
    needs("torchvision:")
    code = """
        import sys
        from wattlayer.adapters import InputSize, resolve
        assert "torch" not in sys.modules
        resolve("resnet18", InputSize())
        print([x for x in ("timm", "transformers", "fvcore") if x in sys.modules])
    """
    result = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# --- sizes


@pytest.mark.parametrize(
    ("name", "size", "shape"),
    [
        ("resnet18", {}, (1, 3, 224, 224)),
        ("resnet18", {"batch": 4, "image_size": 96}, (4, 3, 96, 96)),
        ("resnet18", {"shape": (2, 3, 64, 96)}, (2, 3, 64, 96)),
        ("inception_v3", {}, (1, 3, 299, 299)),
        ("r3d_18", {"batch": 2}, (2, 3, 16, 112, 112)),
        ("timm:vit_tiny_patch16_224", {"image_size": 64}, (1, 3, 64, 64)),
        ("timm:resnet18", {"shape": (2, 3, 64, 96)}, (2, 3, 64, 96)),
        ("hf:vit", {"image_size": 64}, (1, 3, 64, 64)),
        ("hf:bert", {"batch": 2}, (2, 128)),
        ("hf:bert", {"shape": (3, 40)}, (3, 40)),
        ("hf:gpt2", {"seq_len": 40}, (1, 40)),
    ],
)
def test_size_reaches_the_input(name: str, size: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert traced(load(name, **size)).inputs[0].shape == shape


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet50", {"shape": (8, 3, 224)}, "input 8x3x224 does not fit torchvision:resnet50, .* like 8x3x224x224"),
        ("resnet50", {"shape": (8, 1, 224, 224)}, "input 8x1x224x224 does not fit torchvision:resnet50"),
        ("resnet50", {"seq_len": 128}, "seq-len 128 does not apply to torchvision:resnet50, which takes images"),
        ("timm:resnet18", {"seq_len": 128}, "seq-len 128 does not apply to timm:resnet18"),
        ("hf:bert", {"image_size": 224}, "image-size 224 does not apply to hf:bert, which takes text"),
        ("hf:bert", {"shape": (8, 3, 224, 224)}, "input 8x3x224x224 does not fit hf:bert, which takes token ids"),
        ("hf:bert", {"seq_len": 513}, "seq-len 513 is more than the 512 positions of hf:bert"),
        ("hf:vit", {"seq_len": 12}, "seq-len 12 does not apply to hf:vit"),
        ("hf:wav2vec2", {"seq_len": 12}, "seq-len 12 does not apply to hf:wav2vec2, which takes sound"),
        ("hf:perceiver", {"image_size": 32}, "image-size 32 does not apply to hf:perceiver, which takes inputs of its own"),
    ],
)
def test_size_that_does_not_fit_is_refused_in_one_line(name: str, size: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(name, **size)
    assert "\n" not in str(caught.value)


def test_too_small_an_image_is_told_by_the_forward() -> None:
    network = load("inception_v3", image_size=32)
    with pytest.raises(InputError, match="Inception3 does not run on 1x3x32x32") as caught:
        traced(network)
    assert "\n" not in str(caught.value)


def test_sizes_may_be_numpys_whole_numbers_and_nothing_less():
    assert InputSize(batch=np.int64(4)).batch == 4 and InputSize(shape=()).shape == ()
    for value in (2.5, "8", True):
        with pytest.raises(InputError, match="whole number"):
            InputSize(batch=value)
    for shape in (5, (1, 2.5), ("1", 3)):
        with pytest.raises(InputError, match="is not a shape of whole numbers"):
            InputSize(shape=shape)


@pytest.mark.parametrize("size", [{"batch": 0}, {"image_size": 0}, {"seq_len": -1}, {"shape": (1, 0)}])
def test_size_below_one_is_refused(size: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"below 1|at least 1"):
        InputSize(**size)


@pytest.mark.parametrize("name", ["resnet18", "timm:vit_tiny_patch16_224", "hf:bert", "hf:vit", "hf:llama"])
def test_dtype_reaches_every_parameter(name: str) -> None:
    network = load(name, dtype="bfloat16")
    assert {x.dtype for x in network.module.parameters()} == {torch.bfloat16}
    assert traced(network).dtype == "bfloat16"
    assert torch.get_default_dtype() == torch.float32


# --- Hugging Face configurations


def test_llama_405b() -> None:
    batch, length, layers, hidden, heads, kv_heads, wide, vocabulary = 1, 2048, 126, 16384, 128, 8, 53248, 128256
    network = load(f"hf:{LLAMA_405B}", seq_len=length, dtype="bfloat16")
    found = traced(network)
    block = hidden * (2 * hidden + 2 * hidden * kv_heads // heads + 3 * wide)
    norms = (2 * layers + 1) * hidden
    assert sum(x.numel() for x in network.module.parameters()) == layers * block + 2 * vocabulary * hidden + norms
    flop = {x.group: 0 for x in found.unique()}
    for layer, calls in found.unique().items():
        flop[layer.group] += layer.flop * calls
    assert flop["matmul"] == 2 * batch * length * (layers * block + vocabulary * hidden)
    assert flop["attention"] == 4 * batch * layers * length**2 * hidden
    assert {x.dtype for x in found.unique() if x.group == "attention"} == {"bfloat16"}
    assert all(x.known for x in found.unique())
    assert 30 * layers < len(found.layers) < 40 * layers
    assert len(found.unique()) < 50
    attention = next(x for x in found.unique() if x.group == "attention")
    assert attention.argument("enable_gqa") and attention.argument("is_causal")


@pytest.mark.bm
def test_llama_405b_is_traced_fast() -> None:
    needs("hf:")
    code = f"""
        import resource, time, torch
        torch.set_num_threads(2)
        from wattlayer.adapters import InputSize, huggingface, resolve
        from wattlayer.trace import trace
        huggingface.names()
        from transformers import LlamaForCausalLM
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        before_bytes, start = peak(), time.perf_counter()
        network = resolve("hf:{LLAMA_405B}", InputSize(seq_len=2048, dtype="bfloat16"))
        found = trace(network.module, *network.args, kwargs=network.kwargs)
        print(time.perf_counter() - start, peak() - before_bytes, len(found.layers), len(found.unique()))
    """
    result = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=True)
    time_s, memory_bytes, calls, unique = map(float, result.stdout.split())
    print(f"\nLlama-3-405B, 2,048 tokens: {time_s:.2f} s, {memory_bytes / 2**20:.0f} MiB, {calls:.0f} calls, {unique:.0f} unique")
    assert time_s < 3
    assert memory_bytes < 2**30


@pytest.mark.bm
@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "efficientnet_b0"])
def test_tracing_costs_about_a_forward_on_meta(name: str) -> None:
    network = load(name)

    def forward() -> None:
        with torch.inference_mode():
            network.module(*network.args)

    pairs = [(time_s(forward), time_s(lambda: traced(network))) for _ in range(9)]  # side by side: the machine may be shared
    bare_s, trace_s = (min(times) for times in zip(*pairs))
    print(f"\n{name}: forward on meta {bare_s * 1e3:.1f} ms, trace {trace_s * 1e3:.1f} ms ({trace_s / bare_s:.2f}×)")
    assert trace_s < 1.3 * bare_s


def time_s(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_configuration_is_read_from_file_folder_and_type(tmp_path: Path) -> None:
    needs("hf:")
    config = {"model_type": "bert", "num_hidden_layers": 1, "architectures": ["BertForSequenceClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    by_folder, by_file = load(f"hf:{tmp_path}"), load(f"hf:{tmp_path}/config.json")
    assert type(by_folder.module).__name__ == type(by_file.module).__name__ == "BertForSequenceClassification"
    assert type(load("hf:bert").module).__name__ == "BertModel"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('{"a":' * 100_000, "cannot be read as JSON"),
        ("[]", "must hold a JSON object"),
        ('{"model_type": "brat"}', "model_type 'brat' is not part of the installed transformers; nearest: .*bart"),
        ("{}", "model_type 'None' is not part"),
        ('{"model_type": "bert", "architectures": ["MyBert"]}', "architecture 'MyBert' is not part of transformers"),
        ('{"model_type": "bert", "num_attention_heads": 7}', "cannot be built|not valid"),
    ],
)
def test_unusable_configuration_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load(f"hf:{tmp_path}/config.json")
    assert "\n" not in str(caught.value)


def test_id_out_of_reach_asks_for_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    needs("hf:")

    def no_network(name: str) -> Path:
        raise ConnectionError(name)

    monkeypatch.setattr(hub, "_download", no_network)
    with pytest.raises(InputError, match=r"hf:nobody/nothing .* neither cached nor in reach .*give a config.json"):
        resolve("hf:nobody/nothing", InputSize())


def test_hub_is_never_waited_for_long() -> None:
    answered = threading.Event()
    with pytest.raises(TimeoutError):
        hub.within(0.05, lambda: answered.wait(60))
    answered.set()
    assert hub.LONGEST_WAIT_S < 10


def test_pairs_and_decoders_get_all_their_inputs() -> None:
    assert {"input_ids", "pixel_values"} <= set(load("hf:clip", image_size=32).kwargs)
    assert {"input_ids", "decoder_input_ids"} <= set(load("hf:t5").kwargs)
    assert load("hf:gpt2").kwargs["use_cache"] is False


# --- Python files

FACTORIES = """
    import torch
    from torch import nn
    from neighbour import WIDTH

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(WIDTH, 2)
        def forward(self, x, scale=None):
            y = self.linear(x)
            return y if scale is None else y * scale

    def images():
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    def with_inputs():
        return Net(), torch.randn(5, WIDTH)
    def with_kwargs():
        return Net(), (torch.randn(5, WIDTH),), {"scale": torch.ones(2)}
    def large():
        return nn.Linear(1 << 20, 1 << 20), torch.zeros(1, 1 << 20)
    ready = Net()
    def nothing():
        pass
    def broken():
        raise KeyError("layer")
    def bad_kwargs():
        return Net(), torch.randn(5, WIDTH), [1]
    def half():
        return Net().half(), torch.randn(5, WIDTH).half()
    def half_images():
        return images().half()
    def run_before():
        net = Net()
        torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, torch.qint8)
        return net
    def no_metadata():
        raise ValueError("metadata of the device is missing")
    def made_before():
        with torch.device("cpu"):
            return run_before(), torch.randn(5, WIDTH)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 6\n")
    path = tmp_path / "net.py"
    path.write_text(dedent(FACTORIES))
    return path


@pytest.mark.parametrize(
    ("factory", "size", "shapes"),
    [
        ("images", {"batch": 2, "image_size": 32}, [(2, 3, 32, 32)]),
        ("images", {"shape": (1, 3, 16, 24)}, [(1, 3, 16, 24)]),
        ("with_inputs", {}, [(5, 6)]),
        ("with_kwargs", {}, [(5, 6), (2,)]),
        ("ready", {"shape": (3, 6)}, [(3, 6)]),
        ("large", {}, [(1, 1 << 20)]),
        ("made_before", {}, [(5, 6)]),
    ],
)
def test_python_file(file: Path, factory: str, size: dict[str, Any], shapes: list[tuple[int, ...]]) -> None:
    found = traced(resolve(f"{file}:{factory}", InputSize(**size)))
    assert [x.shape for x in found.inputs] == shapes
    assert found.network == f"{file}:{factory}"
    assert found.flop > 0


def test_python_file_in_another_dtype(file: Path) -> None:
    assert traced(resolve(f"{file}:with_kwargs", InputSize(dtype="bfloat16"))).dtype == "bfloat16"


@pytest.mark.parametrize("factory", ["half", "half_images"])
def test_python_file_that_computes_in_another_dtype_says_so(file: Path, factory: str) -> None:
    found = resolve(f"{file}:{factory}", InputSize())
    assert traced(found).dtype == "float32"
    assert found.assumptions == ("the file computes in float16 and is priced in float32, as --dtype says",)
    assert resolve(f"{file}:{factory}", InputSize(dtype="float16")).assumptions == ()


@pytest.mark.parametrize(
    ("factory", "size", "message"),
    [
        (":missing", {}, "has no 'missing'; it has: .*images, with_inputs"),
        ("", {}, "name the function that returns the network, as in .*net.py:build"),
        (":nothing", {}, "nothing returned NoneType: return a module, "),
        (":broken", {}, "broken failed: KeyError: 'layer'"),
        (":no_metadata", {}, "ValueError: metadata of the device is missing$"),
        (":run_before", {}, r"meta tensors; its weights are not made, build what computes with them under torch.device\('cpu'\)"),
        (":bad_kwargs", {}, "keyword arguments of type list: return a dict"),
        (":with_inputs", {"image_size": 32}, "image-size 32 does not apply"),
        (":with_inputs", {"batch": 4}, "batch 4: .* returns its own inputs, of batch 5"),
        (":images", {"seq_len": 4}, "seq-len 4 does not apply"),
    ],
)
def test_python_file_that_cannot_be_used(file: Path, factory: str, size: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        resolve(f"{file}{factory}", InputSize(**size))
    assert "\n" not in str(caught.value)
    assert "net.py" in str(caught.value)


def test_python_file_that_is_not_there_or_broken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.py: there is no such file"):
        resolve(f"{tmp_path}/absent.py:build", InputSize())
    (tmp_path / "broken.py").write_text("def (:\n")
    with pytest.raises(InputError, match=r"broken.py cannot be imported: SyntaxError"):
        resolve(f"{tmp_path}/broken.py:build", InputSize())


FACTORY = """
from __future__ import annotations
import sys
from dataclasses import dataclass
from torch import nn
import torch
from blocks import WIDTH

@dataclass
class Config:
    width: int = WIDTH

def build():
    from later import DEPTH
    config = Config()
    return nn.Sequential(*(nn.Linear(config.width, config.width) for _ in range(DEPTH))), torch.zeros(1, config.width)
"""


def factory_in(folder: Path, width: int, depth: int = 1) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(FACTORY)
    (folder / "blocks.py").write_text(f"WIDTH = {width}\n")
    (folder / "later.py").write_text(f"DEPTH = {depth}\n")
    return f"{folder / 'net.py'}:build"


def test_files_of_one_name_have_what_lies_beside_each(tmp_path):
    """The first one's `blocks` was taken for the second's as well, and the network came out too small."""
    path = list(sys.path)
    sizes = {factory_in(tmp_path / str(width), width, depth): (width, depth) for width, depth in ((8, 1), (512, 2))}
    for _ in range(2):
        for name, (width, depth) in sizes.items():
            assert trace_name(name).flop == 2 * width * width * depth
    assert sys.path == path
    factory_in(tmp_path / "8", 16)
    os.utime(tmp_path / "8" / "blocks.py", (0, 0))  # else a file of the same second and size is taken for unchanged
    assert trace_name(f"{tmp_path / '8' / 'net.py'}:build").flop == 2 * 16 * 16, "what was edited is read again"


def test_files_may_add_folders_of_their_own_and_run_in_threads(tmp_path):
    names = [factory_in(tmp_path / str(i), 8 * (i + 1)) for i in range(8)]
    library = tmp_path / "lib"
    library.mkdir()
    (library / "mine_alone.py").write_text("SIZE = 4\n")
    (tmp_path / "adds.py").write_text(
        f"import sys\nsys.path.insert(0, {str(library)!r})\nimport torch\n"
        "def build():\n    from mine_alone import SIZE\n    return torch.nn.Linear(SIZE, SIZE), torch.zeros(1, SIZE)\n"
    )
    path = list(sys.path)
    try:
        assert trace_name(f"{tmp_path / 'adds.py'}:build").flop == 2 * 16
        assert sys.path == [str(library), *path], "its own folder is gone, what it added stays"
    finally:
        sys.path[:] = path
    with ThreadPoolExecutor(8) as pool:
        assert [x.flop for x in pool.map(trace_name, names)] == [2 * (8 * (i + 1)) ** 2 for i in range(8)]


def test_libraries_below_a_files_folder_stay_imported(tmp_path, monkeypatch):
    """A virtual environment mostly lies beside the file; to import torch's libraries twice would break them."""
    site = tmp_path / "venv" / "site-packages"
    site.mkdir(parents=True)
    (site / "installed_lib.py").write_text("")
    (tmp_path / "net.py").write_text(
        "import installed_lib, torch\ndef build():\n    return torch.nn.Linear(2, 2), torch.zeros(1, 2)\n"
    )
    monkeypatch.syspath_prepend(str(site))
    trace_name(f"{tmp_path / 'net.py'}:build")
    first = sys.modules["installed_lib"]
    trace_name(f"{tmp_path / 'net.py'}:build")
    assert sys.modules["installed_lib"] is first
    del sys.modules["installed_lib"]


def test_what_a_file_brought_stays_as_long_as_it_is_the_same(tmp_path):
    """The caller may import it as well, and a forward may."""
    name = factory_in(tmp_path, 8)
    trace_name(name)
    first = sys.modules["blocks"]
    trace_name(name)
    assert sys.modules["blocks"] is first
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "alone.py").write_text(
        "import torch\ndef build():\n    return torch.nn.Linear(2, 2), torch.zeros(1, 2)\n"
    )
    trace_name(f"{tmp_path / 'other' / 'alone.py'}:build")
    assert sys.modules["blocks"] is first, "the other has no file of that name"


def test_filters_of_warnings_come_back_after_calls_that_overlap(tmp_path):
    """`catch_warnings` of two threads left those of one to the other."""
    both = {"first": (threading.Event(), threading.Event()), "second": (threading.Event(), threading.Event())}
    filters = list(warnings.filters)

    def slow(name: str) -> None:
        began, go_on = both[name]

        def factory() -> torch.nn.Module:
            began.set()
            assert go_on.wait(60)
            return torch.nn.Linear(2, 2)

        build(factory, None)

    with ThreadPoolExecutor(2) as pool:
        futures = []
        for name in both:
            futures.append(pool.submit(slow, name))
            assert both[name][0].wait(60)
        for name, future in zip(both, futures):  # the first to come is the first to go
            both[name][1].set()
            future.result()
    assert list(warnings.filters) == filters


def test_a_link_to_a_file_has_what_lies_beside_the_file(tmp_path):
    """As under `python link.py`."""
    factory_in(tmp_path / "real", 8)
    (tmp_path / "link.py").symlink_to(tmp_path / "real" / "net.py")
    (tmp_path / "blocks.py").write_text("WIDTH = 64\n")
    assert trace_name(f"{tmp_path / 'link.py'}:build").flop == 2 * 8 * 8
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    for name in ("loop.py", "a\0.py"):
        with pytest.raises(InputError, match="there is no such file"):
            trace_name(f"{tmp_path / name}:build")
