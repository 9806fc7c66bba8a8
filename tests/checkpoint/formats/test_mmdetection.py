"""Files of 2019, 2020 and 2024 give the same state dict as the one they were made from, and say what they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from checkpoint.historical import CLASSES, as_v1, as_v2, random_state, save_v1, save_v2, save_v3, tiny_config
from htc.checkpoint.facts import UserFacts
from htc.checkpoint.formats.mmdetection import GUIDED_NOTE, V1_NOTE, read_mmdetection
from htc.checkpoint.load import load_model
from htc.config import Config, GaussianSoftNMS, GuidedRPN, LinearSoftNMS, ResNet
from htc.errors import CheckpointError

CONFIG = tiny_config()
STATE = random_state(CONFIG)

V2_TEXT = """
model = dict(
    type='HybridTaskCascade',
    backbone=dict(type='ResNet', depth=18, frozen_stages=0, norm_cfg=dict(type='BN', requires_grad=True),
        style='pytorch'),
    neck=dict(type='FPN'),
    rpn_head=dict(type='RPNHead', anchor_generator=dict(scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32,
        64])),
    roi_head=dict(type='HybridTaskCascadeRoIHead', interleaved=False, mask_info_flow=True, num_stages=3,
        stage_loss_weights=[1, 0.4, 0.2],
        semantic_fusion=('bbox',), semantic_head=dict(ignore_label=255, loss_weight=0.7),
        bbox_head=[dict(reg_class_agnostic=True, bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2])),
                   dict(reg_class_agnostic=True, bbox_coder=dict(target_stds=[0.05, 0.05, 0.1, 0.1])),
                   dict(reg_class_agnostic=True, bbox_coder=dict(target_stds=[0.03, 0.03, 0.06, 0.06]))]))
test_cfg = dict(rpn=dict(nms_pre=500, max_num=300, nms_thr=0.6), rcnn=dict(score_thr=0.02,
        nms=dict(type='nms', iou_thr=0.4), max_per_img=50))
img_norm_cfg = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)
test_pipeline = [dict(type='MultiScaleFlipAug', img_scale=(640, 320), transforms=[dict(type='Normalize',
        **img_norm_cfg)])]
work_dir = __import__('os').system('echo executed')
"""


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("year", ["2019", "2020", "2024"])
def test_every_generation_gives_the_same_weights(tmp_path: Path, year: str) -> None:
    path = tmp_path / "a.pth"
    {
        "2019": lambda: save_v1(path, as_v1(STATE)),
        "2020": lambda: save_v2(path, as_v2(STATE)),
        "2024": lambda: save_v3(path, as_v2(STATE)),
    }[year]()
    loaded = load_model(path)
    assert_same(loaded.state_dict, STATE)
    assert loaded.config.classes == CLASSES
    assert loaded.config.category_ids == (1, 2, 3)
    assert loaded.config.cascade.num_stages == 3
    assert loaded.config.backbone.depth == 18
    assert loaded.report.fits
    assert (V1_NOTE in loaded.report.notes) == (year == "2019")
    assert read_mmdetection(path).version == {"2019": 1, "2020": 2, "2024": 3}[year]


def test_the_report_names_what_was_done_to_a_file_of_2019(tmp_path: Path) -> None:
    report = load_model(save_v1(tmp_path / "a.pth", as_v1(STATE))).report
    reordered = dict(report.reordered)
    assert len(report.reordered) == 3 * 5
    assert "last" in reordered["roi.box_heads.2.classify.bias"]
    assert "dropped" in reordered["roi.mask_heads.0.logits.weight"]
    assert {name for name, _ in report.dropped} == {
        "mask_head.0.conv_res.conv.weight",
        "mask_head.0.conv_res.conv.bias",
    }
    assert "(7, 7, C)" in reordered["roi.box_heads.1.fc.0.weight"]
    assert ("rpn_head.rpn_cls.bias", "rpn.objectness.bias") in report.renamed
    assert len(report.filled) == sum(name.endswith("num_batches_tracked") for name in STATE)
    assert set(report.used) | {name for name, _ in report.filled} == set(STATE)


@pytest.mark.parametrize("year", ["2019", "2020"])
def test_mask_rcnn_without_stage_index_and_with_class_specific_boxes(tmp_path: Path, year: str) -> None:
    config = tiny_config(
        num_stages=1, interleaved=False, mask_flow=False, semantic_fusion="none", class_agnostic_boxes=False,
        delta_stds=((0.1, 0.1, 0.2, 0.2),), ious=(0.5,), loss_weights=(1.0,),
    )  # fmt: skip
    state = random_state(config)
    assert state["roi.box_heads.0.regress.weight"].shape[0] == 12
    path = tmp_path / "a.pth"
    if year == "2019":
        save_v1(path, as_v1(state, one_stage=True))
    else:
        save_v2(path, as_v2(state, one_stage=True))
    loaded = load_model(path)
    assert_same(loaded.state_dict, state)
    assert loaded.config.cascade.class_agnostic_boxes is False
    assert loaded.config.semantic is None


def test_the_configuration_text_is_read_and_never_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = load_model(save_v2(tmp_path / "a.pth", as_v2(STATE), V2_TEXT)).config
    assert "executed" not in capfd.readouterr().out
    assert config.cascade.interleaved is False
    assert config.cascade.semantic_fusion == "box"
    assert config.cascade.delta_stds[2] == (0.03, 0.03, 0.06, 0.06)
    assert config.cascade.loss_weights == (1.0, 0.4, 0.2)
    assert config.semantic is not None
    assert config.semantic.loss_weight == 0.7
    assert (config.rpn.anchor_scale, config.rpn.candidates_per_level, config.rpn.proposals, config.rpn.nms_iou) == (
        4.0,
        500,
        300,
        0.6,
    )
    assert (config.inference.score_threshold, config.inference.nms_iou, config.inference.max_detections) == (
        0.02,
        0.4,
        50,
    )
    assert (config.input.short_edge, config.input.long_edge, config.input.mean) == (320, 640, (1.0, 2.0, 3.0))
    assert config.backbone.frozen_stages == 0


def test_the_text_of_2019_has_everything_at_model_level(tmp_path: Path) -> None:
    text = (
        "model = dict(type='HybridTaskCascade', num_stages=3, interleaved=True, mask_info_flow=True, "
        "semantic_fusion=('mask',),\n"
        "  rpn_head=dict(type='RPNHead', anchor_scales=[16], anchor_ratios=[0.5, 1.0, 2.0], anchor_strides=[4, 8, 16, "
        "32, 64]),\n"
        "  bbox_head=[dict(target_stds=[0.1, 0.1, 0.2, 0.2]), dict(target_stds=[0.05, 0.05, 0.1, 0.1]), "
        "dict(target_stds=[0.02, 0.02, 0.04, 0.04])])\n"
        "test_cfg = dict(rcnn=dict(score_thr=0.001, nms=dict(type='nms', iou_thr=0.5), max_per_img=100, "
        "mask_thr_binary=0.45))\n"
    )
    config = load_model(save_v1(tmp_path / "a.pth", as_v1(STATE), text)).config
    assert config.cascade.semantic_fusion == "mask"
    assert config.rpn.anchor_scale == 16.0
    assert config.cascade.delta_stds[2] == (0.02, 0.02, 0.04, 0.04)
    assert config.inference.mask_threshold == 0.45


@pytest.mark.parametrize(
    ("nms", "expected"),
    [
        ("type='nms', iou_thr=0.4", None),
        ("type='soft_nms', iou_thr=0.4", LinearSoftNMS(iou=0.4)),
        ("type='soft_nms', iou_threshold=0.3, min_score=0.05", LinearSoftNMS(iou=0.3, min_score=0.05)),
        ("type='soft_nms', iou_threshold=0.3, sigma=0.7, method='gaussian'", GaussianSoftNMS(sigma=0.7)),
        ("type='soft_nms', iou_threshold=0.3, method='naive'", None),
    ],
)
def test_soft_nms_of_the_configuration_text(tmp_path: Path, nms: str, expected: object) -> None:
    loaded = load_model(save_v2(tmp_path / "a.pth", as_v2(STATE), V2_TEXT.replace("type='nms', iou_thr=0.4", nms)))
    assert loaded.config.inference.soft_nms == expected
    assert any("plain NMS" in note for note in loaded.report.notes) == ("naive" in nms)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model = dict(type='MaskRCNN', backbone=dict(type='SwinTransformer'))", "SwinTransformer"),
        ("model = dict(type='SOLO')", "SOLO"),
        ("model = dict(type='MaskRCNN', neck=dict(type='NASFPN'))", "NASFPN"),
        ("model = dict(type='MaskRCNN', rpn_head=dict(anchor_generator=dict(scales=[2, 4])))", "anchor scales"),
        ("model = dict(type='MaskRCNN', backbone=dict(dcn=dict(type='DCN', deform_groups=4)))", "offset groups"),
    ],
)
def test_models_we_cannot_run_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        load_model(save_v2(tmp_path / "a.pth", as_v2(STATE), text))


CAFFE_TEXTS = {
    2: "model = dict(type='HybridTaskCascade', backbone=dict(type='ResNet', style='caffe', norm_cfg=dict(type='BN', "
    "requires_grad=False)))\n"
    "img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)",
    3: "model = dict(type='HybridTaskCascade', backbone=dict(type='ResNet', style='caffe', norm_cfg=dict(type='BN', "
    "requires_grad=False)),\n"
    "  data_preprocessor=dict(type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], "
    "bgr_to_rgb=False))",
}


@pytest.mark.parametrize("version", CAFFE_TEXTS)
def test_a_caffe_backbone_has_its_stride_and_reads_red_green_blue(tmp_path: Path, version: int) -> None:
    config = tiny_config().replace(backbone=ResNet(depth=50))
    weights = as_v2(random_state(config))
    loaded = load_model((save_v2 if version == 2 else save_v3)(tmp_path / "a.pth", weights, CAFFE_TEXTS[version]))
    backbone = loaded.config.backbone
    assert isinstance(backbone, ResNet)
    assert (backbone.stride_in, backbone.norm) == ("1x1", "frozen")
    blue_green_red = torch.rand(1, 3, 32, 32) * 255
    read = (blue_green_red.flip(1) - torch.tensor(loaded.config.input.mean).view(3, 1, 1)) / torch.tensor(
        loaded.config.input.std
    ).view(3, 1, 1)
    expected = F.conv2d(
        blue_green_red - torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1),
        weights["backbone.conv1.weight"],
        stride=2,
        padding=3,
    )
    torch.testing.assert_close(
        F.conv2d(read, loaded.state_dict["backbone.conv1.weight"], stride=2, padding=3), expected, atol=1e-2, rtol=1e-4
    )
    assert any(what == "input channels from BGR to RGB" for _, what in loaded.report.reordered)
    with pytest.raises(CheckpointError, match="stride_in"):
        load_model("htc_r50_fpn_1x_coco", tmp_path / "a.pth")


def test_the_colors_of_a_file_without_text_are_told(tmp_path: Path) -> None:
    path = save_v2(tmp_path / "a.pth", as_v2(STATE))
    plain, told = load_model(path), load_model(path, facts=UserFacts(colors="bgr"))
    assert torch.equal(told.state_dict["backbone.conv1.weight"], plain.state_dict["backbone.conv1.weight"].flip(1))
    with pytest.raises(CheckpointError, match="--colors rgb contradicts"):
        load_model(save_v2(tmp_path / "b.pth", as_v2(STATE), CAFFE_TEXTS[2]), facts=UserFacts(colors="rgb"))
    with pytest.raises(CheckpointError, match=r"--norm-epsilon has no effect"):
        load_model(path, facts=UserFacts(norm_epsilon=0))


GUIDED_TEXT = """
model = dict(type='HybridTaskCascade', rpn_head=dict(type='GARPNHead',
    approx_anchor_generator=dict(octave_base_scale=4, scales_per_octave=2, ratios=[0.5, 2.0]), loc_filter_thr=0.02,
    anchor_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]), bbox_coder=dict(target_stds=[0.3, 0.3, 0.4, 0.4]),
        loss_bbox=dict(type='L1Loss')))
test_cfg = dict(rpn=dict(nms_pre=500, nms_post=500, max_per_img=300, nms=dict(type='nms', iou_threshold=0.6)))
"""


@pytest.mark.parametrize("year", ["2019", "2020"])
def test_guided_anchoring_of_either_generation(tmp_path: Path, year: str) -> None:
    """Its text is read besides; files since 2020 come with a note on how they were trained."""
    config = CONFIG.replace(rpn=GuidedRPN())
    state = random_state(config)
    path = (
        save_v1(tmp_path / "a.pth", as_v1(state), GUIDED_TEXT)
        if year == "2019"
        else save_v2(tmp_path / "a.pth", as_v2(state), GUIDED_TEXT)
    )
    loaded = load_model(path)
    assert_same(loaded.state_dict, state)
    stds = {"anchor_stds": (0.1, 0.1, 0.2, 0.2), "delta_stds": (0.3, 0.3, 0.4, 0.4)}
    limits = {
        "candidates_per_level": 500,
        "proposals": 300,
        "nms_iou": 0.6,
        "location_threshold": 0.02,
        "box_loss": "l1",
    }
    assert loaded.config.rpn == GuidedRPN(
        anchor_scale=4, scales_per_octave=2, anchor_ratios=(0.5, 2.0), **stds, **limits
    )
    assert (GUIDED_NOTE in loaded.report.notes) == (year == "2020")
    with pytest.raises(CheckpointError, match=r"rpn\.kind: the weights have guided_rpn, the configuration has rpn"):
        load_model(path, overrides={"rpn": {"kind": "rpn"}})


def test_prefixes_of_parallel_training_and_moving_averages(tmp_path: Path) -> None:
    weights = {f"module.{name}": tensor for name, tensor in as_v2(STATE).items()}
    weights["module.ema_backbone_conv1_weight"] = torch.zeros(3)
    weights["module.data_preprocessor.mean"] = torch.zeros(3)
    loaded = load_model(save_v2(tmp_path / "a.pth", weights))
    assert_same(loaded.state_dict, STATE)
    assert dict(loaded.report.dropped).keys() == {"module.ema_backbone_conv1_weight", "module.data_preprocessor.mean"}


def test_a_bare_state_dict_is_enough(tmp_path: Path) -> None:
    torch.save(as_v2(STATE), tmp_path / "a.pth")
    loaded = load_model(tmp_path / "a.pth")
    assert_same(loaded.state_dict, STATE)
    assert loaded.config.classes == ("class 1", "class 2", "class 3")


def _without(name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in as_v2(STATE).items() if key != name}


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (_without("roi_head.bbox_head.1.fc_reg.weight"), "missing: roi.box_heads.1.regress.weight"),
        (_without("roi_head.semantic_head.conv_embedding.conv.bias"), "missing: semantic.embedding.conv.bias"),
        (
            as_v2(STATE) | {"roi_head.mask_iou_head.fc.weight": torch.zeros(2)},
            "unexpected: roi_head.mask_iou_head.fc.weight",
        ),
        (
            as_v2(STATE) | {"roi_head.bbox_head.2.fc_cls.weight": torch.zeros(9, 8)},
            r"roi.box_heads.2.classify.weight \(file \(9, 8\), model \(4, 8\)\)",
        ),
        (as_v2(STATE) | {"bbox_head.2.fc_cls.weight": torch.zeros(4, 8)}, "mixes two versions"),
        (_without("rpn_head.rpn_cls.weight"), "not a ResNet-FPN network"),
        (as_v2(STATE) | {"rpn_head.conv_loc.weight": torch.zeros(1)}, "missing: rpn.location.bias, rpn.shape.weight"),
        (
            {"conv1.weight": torch.zeros(1), "layer1.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)},
            "classification backbone",
        ),
        ({"backbone.conv1.weight": torch.zeros(1), "bbox.x": torch.zeros(1)}, "no roi_head"),
        ({}, "no state_dict"),
    ],
)
def test_half_matching_and_foreign_files_are_errors(
    tmp_path: Path, weights: dict[str, torch.Tensor], says: str
) -> None:
    with pytest.raises(CheckpointError, match=says) as caught:
        load_model(save_v2(tmp_path / "wrong.pth", weights))
    assert "wrong.pth" in str(caught.value)


def test_class_names_that_do_not_fit_are_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = save_v2(tmp_path / "a.pth", as_v2(STATE), classes=("a", "b"))
    with pytest.raises(CheckpointError, match="the weights have 3 classes, but the file has 2"):
        load_model(path)
    assert load_model(path, overrides={"classes": ("x", "y", "z")}).config.classes == ("x", "y", "z")


@pytest.mark.parametrize(("names", "expected"), [("cell", ("cell",)), (["cell"], ("cell",)), (("cell",), ("cell",))])
def test_one_class_and_a_forgotten_comma(tmp_path: Path, names: Any, expected: tuple[str, ...]) -> None:
    config = Config.model_validate({**CONFIG.model_dump(), "classes": ("cell",), "category_ids": (1,)})
    loaded = load_model(save_v2(tmp_path / "a.pth", as_v2(random_state(config)), classes=names))
    assert loaded.config.classes == expected


@pytest.mark.parametrize(
    "content",
    [torch.nn.Linear(2, 2).state_dict, lambda: [torch.ones(1)], lambda: torch.ones(2), lambda: {"state_dict": 5}],
)
def test_files_without_a_detector_in_them(tmp_path: Path, content: Any) -> None:
    torch.save(content(), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth"):
        load_model(tmp_path / "a.pth")
