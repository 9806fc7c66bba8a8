"""Parameter names of the original in all its versions."""

import pytest
import torch

from checkpoint.historical import as_v1, as_v2
from htc.checkpoint.formats.mmdetection import our_name, reason_to_drop
from htc.model.detector import Detector
from htc.presets import PRESETS, preset

NAMES = (
    ("backbone.layer1.0.conv1.weight", "backbone.layer1.0.conv1.weight"),
    ("backbone.layer2.0.conv2_offset.weight", "backbone.layer2.0.conv2.conv_offset.weight"),
    ("backbone.layer4.2.conv2.conv_offset.bias", "backbone.layer4.2.conv2.conv_offset.bias"),
    ("backbone.bn1.running_mean", "backbone.bn1.running_mean"),
    ("neck.lateral_convs.3.conv.weight", "neck.lateral.3.conv.weight"),
    ("neck.lateral_convs.3.bn.weight", "neck.lateral.3.norm.weight"),
    ("neck.fpn_convs.0.gn.bias", "neck.output.0.norm.bias"),
    ("neck.pafpn_convs.1.conv.bias", "neck.bottom_up.1.conv.bias"),
    ("neck.downsample_convs.0.conv.bias", "neck.downsample.0.conv.bias"),
    ("rpn_head.rpn_cls.weight", "rpn.objectness.weight"),
    ("rpn_head.rpn_reg.bias", "rpn.deltas.bias"),
    ("bbox_head.fc_cls.weight", "roi.box_heads.0.classify.weight"),
    ("bbox_head.2.shared_fcs.1.bias", "roi.box_heads.2.fc.1.bias"),
    ("roi_head.bbox_head.1.fc_reg.bias", "roi.box_heads.1.regress.bias"),
    ("roi_head.mask_head.convs.3.conv.weight", "roi.mask_heads.0.convs.3.conv.weight"),
    ("mask_head.2.upsample.bias", "roi.mask_heads.2.upsample.bias"),
    ("roi_head.mask_head.1.conv_res.conv.weight", "roi.mask_flows.0.conv.weight"),
    ("mask_head.2.conv_res.conv.bias", "roi.mask_flows.1.conv.bias"),
    ("semantic_head.conv_embedding.conv.weight", "semantic.embedding.conv.weight"),
    ("roi_head.semantic_head.lateral_convs.4.conv.bias", "semantic.lateral.4.conv.bias"),
    (
        "roi_head.mask_iou_head.fcs.0.weight",
        "roi_head.mask_iou_head.fcs.0.weight",
    ),  # unknown: left as it is, so that it is reported
)


@pytest.mark.parametrize(("theirs", "ours"), NAMES)
def test_names(theirs: str, ours: str) -> None:
    assert our_name(theirs) == ours


def official(name: str) -> bool:
    """Of a kind that the original has: it has no mask heads of PANet."""
    return ("r50" in name or "dconv" in name) and preset(name).cascade.mask_head.kind == "plain"


@pytest.mark.parametrize("name", [name for name in PRESETS if official(name)])
@pytest.mark.parametrize("year", ["2019", "2020"])
def test_every_tensor_of_a_preset_has_a_name_there(name: str, year: str) -> None:
    with torch.device("meta"):
        state = Detector(preset(name)).state_dict()
    one_stage = preset(name).cascade.num_stages == 1
    theirs = as_v1(state, one_stage=one_stage) if year == "2019" else as_v2(state, one_stage=one_stage)
    if year == "2019" and "dconv" in name:
        assert any(".conv2_offset." in key for key in theirs)
    ours = [our_name(key) for key in theirs if not reason_to_drop(key)]
    assert len(ours) == len(set(ours))
    assert set(ours) == {key for key in state if year == "2020" or not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("ema_backbone_conv1_weight", True),
        ("data_preprocessor.mean", True),
        ("mask_head.0.conv_res.conv.weight", True),
        ("roi_head.mask_head.0.conv_res.conv.bias", True),
        ("roi_head.mask_head.1.conv_res.conv.bias", False),
        ("backbone.conv1.weight", False),
    ],
)
def test_what_is_of_no_use_to_any_model(name: str, dropped: bool) -> None:
    assert (reason_to_drop(name) is not None) == dropped
