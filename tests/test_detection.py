"""torchvision's detectors, which run on as many boxes as they say they may."""

from __future__ import annotations

import pytest
import torch
from conftest import needs_torchvision

from wattlayer.adapters import InputSize, resolve
from wattlayer.adapters.torchvision import import_torchvision
from wattlayer.predict import trace_network

pytestmark = needs_torchvision

PUBLISHED = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)
"""Those whose published count is of as many boxes as their limits allow; the others' image left fewer."""


def traced(name: str, **size):
    return trace_network(resolve(f"torchvision:{name}", InputSize(**size)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_multiply_adds_are_those_torchvision_publishes(name):
    weights = import_torchvision().models.get_model_weights(name).DEFAULT
    detector = traced(name, image_size=512)  # what the counts were published for, resized by each network as it likes
    products = sum(x.flop for x in detector.layers if x.group in ("conv", "matmul")) / 2
    assert products / 1e9 == pytest.approx(weights.meta["_ops"], rel=1e-3)


def kinds(trace, kind):
    return [x for x in trace.layers if x.kind == kind]


def test_the_limits_of_a_network_decide_how_many_boxes_there_are():
    detector = traced("maskrcnn_resnet50_fpn", batch=2)
    boxes = [x.outputs[0].shape[0] for x in kinds(detector, "torchvision::roi_align")]
    assert boxes == [500] * 4 + [50] * 4  # 2 images x 1,000 proposals, then 100 detections, over four levels
    first, *rest = (x.inputs[0].shape[0] for x in kinds(detector, "torchvision::nms"))
    assert first > 4000 and rest == [first, 1000, 1000]
    told = " ".join(detector.assumptions)
    assert "1000 proposals, 100 detections an image" in told and "masks into pixels" in told and "evenly over the levels" in told
    assert detector.batch == 2


def test_modules_keep_their_names():
    detector = traced("keypointrcnn_resnet50_fpn", image_size=320)
    assert {x.split(".")[0] for x in detector.paths} >= {"transform", "backbone", "rpn", "roi_heads"}
    assert any(x.startswith("roi_heads.keypoint_predictor") for x in detector.paths)
    assert "keypoints into pixels" in " ".join(detector.assumptions)


def test_one_stage_detectors_take_other_dtypes():
    assert traced("ssdlite320_mobilenet_v3_large", dtype="float16").dtype == "float16"


def test_a_box_costs_a_comparison_with_every_other():
    suppression = kinds(traced("retinanet_resnet50_fpn", image_size=320), "torchvision::nms")[0]
    boxes = suppression.inputs[0].shape[0]
    assert suppression.flop == 19 * boxes * (boxes - 1) // 2


def test_suppression_is_as_torchvision_left_it():
    before = torch._C._dispatch_dump("torchvision::nms")
    traced("fcos_resnet50_fpn", image_size=320)
    assert torch._C._dispatch_dump("torchvision::nms") == before


@pytest.mark.parametrize("name", ["raft_small", "r3d_18", "deeplabv3_mobilenet_v3_large", "swin3d_t"])
def test_optical_flow_video_and_segmentation_run(name):
    network = traced(name, shape=(1, 3, 4, 64, 64)) if name in ("r3d_18", "swin3d_t") else traced(name, image_size=128)
    assert network.flop > 1e8 and all(x.known for x in network.unique())
