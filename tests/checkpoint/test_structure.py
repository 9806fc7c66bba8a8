"""Architectures from shapes alone, for every preset and for variants that no preset has."""

from functools import lru_cache

import pytest
import torch

from htc.checkpoint.fit import shapes_of
from htc.checkpoint.infer import infer_config, stored_class_names
from htc.checkpoint.structure import contradictions, read_structure
from htc.config import FPN, PAFPN, Config, GuidedRPN, ResNet
from htc.errors import CheckpointError
from htc.model.detector import Detector
from htc.presets import PRESETS, preset

COCO_PRESETS = [name for name in PRESETS if name.endswith("_coco")]


@lru_cache
def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return shapes_of(Detector(config).state_dict())


@pytest.mark.parametrize("name", COCO_PRESETS)
def test_every_preset_is_found_again(name: str) -> None:
    config = preset(name)
    found = infer_config(shapes(config), {}, None, name)
    assert found == config
    nameless = infer_config(shapes(config), {}, None)
    assert nameless.replace(preset=name, training=config.training) == config
    assert contradictions(read_structure(shapes(config)), config) == []


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": ResNet(depth=50, deformable="v2", deformable_stages=(5,))},
        {"backbone": ResNet(depth=101, groups=32, base_width=8, deformable="v1", deformable_stages=(3, 4, 5))},
        {"backbone": ResNet(depth=34)},
        {"backbone": ResNet(depth=152)},
        {"neck": PAFPN()},
        {"rpn": GuidedRPN()},
        {"neck": FPN(norm="batch")},
        {"neck": FPN(norm="group")},
        {"classes": ("a", "b"), "category_ids": (1, 2)},
    ],
)
def test_variants_are_read_from_shapes(change: dict[str, object]) -> None:
    config = preset("htc_r50_fpn_1x_coco").replace(**change)
    found = infer_config(shapes(config), {}, config.classes)
    assert found.preset == "custom"
    assert found.replace(preset=config.preset, training=config.training) == config


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_other_numbers_of_stages(stages: int) -> None:
    stds = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067), (0.033, 0.033, 0.067, 0.067))
    cascade = {
        "num_stages": stages,
        "delta_stds": stds[:stages],
        "ious": (0.5,) * stages,
        "loss_weights": (1.0,) * stages,
    }
    values = preset("htc_r50_fpn_1x_coco").model_dump()
    config = Config.model_validate({**values, "cascade": {**values["cascade"], **cascade}})
    found = infer_config(shapes(config), {}, None)
    assert found.cascade.num_stages == stages
    assert found.cascade.delta_stds == stds[:stages]


def test_an_experiment_name_is_believed_only_if_the_shapes_agree() -> None:
    found = infer_config(shapes(preset("htc_r50_fpn_20e_coco")), {}, None, "htc_r101_fpn_20e_coco")
    assert found.backbone.depth == 50


def test_contradictions_name_the_field_and_both_values() -> None:
    structure = read_structure(shapes(preset("htc_r50_fpn_1x_coco")))
    lines = contradictions(structure, preset("mask_rcnn_r101_fpn_1x_coco"))
    text = "\n".join(lines)
    assert "backbone.depth: the weights have 50, the configuration has 101" in text
    assert "cascade.num_stages: the weights have 3, the configuration has 1" in text
    assert "semantic (branch present): the weights have true, the configuration has false" in text
    assert "cascade.class_agnostic_boxes: the weights have true, the configuration has false" in text


def test_unknown_backbones_and_offset_groups_are_refused() -> None:
    known = shapes(preset("htc_r50_fpn_1x_coco"))
    with pytest.raises(CheckpointError, match="blocks"):
        read_structure(known | {"backbone.layer3.6.conv1.weight": (1,)})
    with pytest.raises(CheckpointError, match="72 offset channels"):
        read_structure(known | {"backbone.layer4.0.conv2.conv_offset.weight": (72, 512, 3, 3)})


@pytest.mark.parametrize(("count", "first", "length"), [(80, "person", 80), (1, "class 1", 1), (3, "class 1", 3)])
def test_names_where_the_file_has_none(count: int, first: str, length: int) -> None:
    names = stored_class_names(count, None)
    assert (names[0], len(names)) == (first, length)
