"""Files of DetectoRS: names and shapes as mmdetection's modules give them, written out here from its source
(detectors_resnet, rfp, saconv, conv_ws).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from checkpoint.historical import as_v2, save_v2
from htc.checkpoint.load import load_model
from htc.errors import CheckpointError
from htc.model.detector import Detector
from htc.presets import preset
from htc.presets.coco import COCO_CLASSES

Shapes = Iterator[tuple[str, tuple[int, ...]]]
PRESETS = {
    "htc_r50_rfp_1x_coco": (True, False),
    "htc_r50_sac_1x_coco": (False, True),
    "detectors_htc_r50_1x_coco": (True, True),
}
"""Recursive pyramid, switchable convolution."""
TEXT = """
model = dict(type='HybridTaskCascade', backbone=dict(type='DetectoRS_ResNet', depth=50,
        conv_cfg=dict(type='ConvAWS'), output_img=True, style='pytorch'),
    neck=dict(type='RFP', rfp_steps=2, aspp_out_channels=64, aspp_dilations=(1, 3, 6, 1),
        rfp_backbone=dict(rfp_inplanes=256, type='DetectoRS_ResNet')))
"""


def convolution(name: str, out: int, into: int, kernel: int) -> Shapes:
    """ConvAWS"""
    yield f"{name}.weight", (out, into, kernel, kernel)
    yield f"{name}.weight_gamma", (out, 1, 1, 1)
    yield f"{name}.weight_beta", (out, 1, 1, 1)


def switchable(name: str, width: int) -> Shapes:
    """SAC, deformable"""
    yield from convolution(name, width, width, 3)
    yield f"{name}.weight_diff", (width, width, 3, 3)
    for part, out, kernel in (
        ("switch", 1, 1),
        ("pre_context", width, 1),
        ("post_context", width, 1),
        ("offset_s", 18, 3),
        ("offset_l", 18, 3),
    ):
        yield f"{name}.{part}.weight", (out, width, kernel, kernel)
        yield f"{name}.{part}.bias", (out,)


def norm(name: str, channels: int) -> Shapes:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def backbone(prefix: str, *, sac: bool, feedback: bool) -> Shapes:
    yield from convolution(f"{prefix}conv1", 64, 3, 7)
    yield from norm(f"{prefix}bn1", 64)
    into = 64
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        width = 32 * 2**layer
        for block in range(blocks):
            name = f"{prefix}layer{layer}.{block}"
            yield from convolution(f"{name}.conv1", width, into, 1)
            yield from (
                switchable(f"{name}.conv2", width)
                if sac and layer > 1
                else convolution(f"{name}.conv2", width, width, 3)
            )
            yield from convolution(f"{name}.conv3", 4 * width, width, 1)
            for index, channels in enumerate((width, width, 4 * width), start=1):
                yield from norm(f"{name}.bn{index}", channels)
            if block == 0:
                yield from convolution(f"{name}.downsample.0", 4 * width, into, 1)
                yield from norm(f"{name}.downsample.1", 4 * width)
            if block == 0 and feedback and layer > 1:
                yield f"{name}.rfp_conv.weight", (4 * width, 256, 1, 1)
                yield f"{name}.rfp_conv.bias", (4 * width,)
            into = 4 * width


def further(recursive: bool, sac: bool) -> Shapes:
    yield from backbone("backbone.", sac=sac, feedback=False)
    if recursive:
        yield from backbone("neck.rfp_modules.0.", sac=sac, feedback=True)
        for index, kernel in enumerate((1, 3, 3, 1)):
            yield f"neck.rfp_aspp.aspp.{index}.weight", (64, 256, kernel, kernel)
            yield f"neck.rfp_aspp.aspp.{index}.bias", (64,)
        yield "neck.rfp_weight.weight", (1, 256, 1, 1)
        yield "neck.rfp_weight.bias", (1,)


def a_file(recursive: bool, sac: bool) -> dict[str, Tensor]:
    """The parts of DetectoRS as written out above, the others as in any file of HTC."""
    generator = torch.Generator().manual_seed(0)

    def drawn(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=generator) if shape else torch.zeros((), dtype=torch.long)

    with torch.device("meta"):
        htc = Detector(preset("htc_r50_fpn_1x_coco")).state_dict()
    others = {name: drawn(tuple(tensor.shape)) for name, tensor in htc.items() if not name.startswith("backbone.")}
    return {**as_v2(others), **{name: drawn(shape) for name, shape in further(recursive, sac)}}


@pytest.mark.parametrize("name", PRESETS)
def test_every_tensor_of_a_file_finds_its_place(tmp_path: Path, name: str) -> None:
    weights = a_file(*PRESETS[name])
    path = save_v2(tmp_path / "a.pth", weights, TEXT if PRESETS[name][0] else "", COCO_CLASSES)
    loaded = load_model(name, path)
    assert loaded.config == preset(name)
    assert len(loaded.state_dict) == len(weights)
    assert not loaded.report.dropped
    assert not loaded.report.filled
    state = loaded.state_dict
    assert torch.equal(
        state["backbone.layer1.0.downsample.0.standard.beta"], weights["backbone.layer1.0.downsample.0.weight_beta"]
    )
    if PRESETS[name][1]:
        assert torch.equal(state["backbone.layer3.1.conv2.difference"], weights["backbone.layer3.1.conv2.weight_diff"])
        assert torch.equal(
            state["backbone.layer4.0.conv2.offsets.1.weight"], weights["backbone.layer4.0.conv2.offset_l.weight"]
        )
        assert torch.equal(
            state["backbone.layer4.0.conv2.before.bias"], weights["backbone.layer4.0.conv2.pre_context.bias"]
        )
    if PRESETS[name][0]:
        assert torch.equal(
            state["second_look.feedback.1.weight"], weights["neck.rfp_modules.0.layer3.0.rfp_conv.weight"]
        )
        assert torch.equal(state["second_look.backbone.bn1.weight"], weights["neck.rfp_modules.0.bn1.weight"])
        assert torch.equal(state["second_look.context.dilated.1.weight"], weights["neck.rfp_aspp.aspp.2.weight"])
        assert torch.equal(state["second_look.context.mean.bias"], weights["neck.rfp_aspp.aspp.3.bias"])
    # without the preset's name: the same network, from the shapes
    found = load_model(path).config
    assert found.replace(preset=name, training=preset(name).training) == preset(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rfp_steps=2": "rfp_steps=3"}, "has 3 steps"),
        ({"(1, 3, 6, 1)": "(1, 6, 12, 1)"}, "dilations"),
        ({"'ConvAWS'": "'ConvWS'"}, "ConvWS"),
    ],
)
def test_what_is_not_supported_is_said(tmp_path: Path, change: dict[str, str], says: str) -> None:
    text: Any = TEXT
    for old, new in change.items():
        text = text.replace(old, new)
    with pytest.raises(CheckpointError, match=says):
        load_model(save_v2(tmp_path / "a.pth", a_file(recursive=True, sac=False), text, COCO_CLASSES))
