"""Validated copies of configurations."""

import pytest

from htc.config import PAFPN, Cascade, Config, GaussianSoftNMS, LinearSoftNMS, ResNet, Section, Semantic
from htc.errors import ConfigError
from htc.presets import PRESETS, preset


@pytest.fixture
def config() -> Config:
    return preset("htc_r50_fpn_20e_coco")


def test_two_stages_with_three_ious_are_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"cascade: delta_stds has 3 values for num_stages = 2"):
        config.replace(cascade={"num_stages": 2})
    with pytest.raises(ConfigError, match=r"configuration: ious has 3 values for num_stages = 2"):
        config.cascade.replace(num_stages=2, delta_stds=config.cascade.delta_stds[:2])


def test_values_that_must_agree_change_together(config: Config) -> None:
    per_stage = {name: getattr(config.cascade, name)[:2] for name in ("delta_stds", "ious", "loss_weights")}
    changed = config.replace(cascade={"num_stages": 2, **per_stage})
    assert changed.cascade == Cascade(num_stages=2, **per_stage)
    assert config.cascade == Cascade()


@pytest.mark.parametrize("name", PRESETS)
def test_replacing_each_field_by_itself_changes_nothing(name: str) -> None:
    config = preset(name)
    assert config.replace() == config
    assert config.replace(**dict(config)) == config.replace(**config.model_dump()) == config
    assert Config.model_validate_json(config.replace(preset=name).model_dump_json()) == config


def test_a_dictionary_changes_the_named_fields_of_a_nested_section(config: Config) -> None:
    changed = config.replace(inference={"max_detections": 300}, training={"optimizer": {"lr": 0.1}})
    assert changed.inference == config.inference.replace(max_detections=300)
    assert changed.training.optimizer == config.training.optimizer.replace(lr=0.1)
    assert (changed.training.epochs, changed.backbone) == (config.training.epochs, config.backbone)
    assert config.replace(classes=["a"], category_ids=[1]).classes == ("a",)


def test_a_section_replaces_a_section(config: Config) -> None:
    assert config.replace(backbone=ResNet(depth=18)).backbone == ResNet(depth=18)
    assert config.replace(semantic=None, cascade={"semantic_fusion": "none"}).semantic is None
    without = preset("cascade_mask_rcnn_r50_fpn_1x_coco")
    assert without.replace(semantic={"classes": 3}).semantic == Semantic(classes=3)
    with pytest.raises(ConfigError, match="neck: "):
        config.replace(neck=ResNet())


def test_another_kind_replaces_the_whole_variant(config: Config) -> None:
    norms = config.replace(neck={"norm": "group"})
    assert norms.replace(neck={"kind": "pafpn"}).neck == PAFPN()
    assert norms.replace(neck={"kind": "fpn", "channels": 256}).neck.norm == "group"
    soft = config.replace(inference={"soft_nms": {"kind": "linear", "min_score": 0.1}})
    assert soft.inference.soft_nms == LinearSoftNMS(min_score=0.1)
    assert soft.replace(inference={"soft_nms": {"kind": "gaussian"}}).inference.soft_nms == GaussianSoftNMS()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inferense": {}}, r"^inferense: there is no such field; did you mean inference\?$"),
        ({"neck": {"chanels": 1}}, r"^neck\.chanels: there is no such field; did you mean channels\?$"),
        ({"neck": {"channels": 0}}, r"^neck\.channels: should be greater than or equal to 1 \(got 0\)$"),
        ({"precision": "fp64"}, r"^precision: should be 'fp32' or 'bf16' \(got 'fp64'\)$"),
        ({"neck": {"kind": "bifpn"}}, r"^neck: .*'bifpn'"),
        ({"inference": {"box_stage": 4}}, r"^configuration: inference uses stage 4, but cascade\.num_stages is 3$"),
        ({"cascade": {"ious": (0.5, 2, 0.7)}}, r"^cascade\.ious\.1: should be less than or equal to 1 \(got 2\)$"),
        ({"inference": 3}, r"^inference: .*\(got 3\)$"),
        (
            {"input": {"divisor": 0}, "training": {"epochs": 0.5}},
            r"^input\.divisor: .*\(got 0\); training\.epochs: .*\(got 0\.5\)$",
        ),
    ],
)
def test_errors_name_every_field_and_value(config: Config, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        config.replace(**changes)
    assert isinstance(raised.value, ValueError)


def test_unvalidated_copies_are_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"does not validate num_stages, ious: use replace\(\.\.\.\)"):
        config.cascade.model_copy(update={"num_stages": 2, "ious": ()})
    for section in (config, config.cascade):
        assert isinstance(section, Section)
        for deep in (False, True):
            assert section.model_copy(deep=deep) == section == section.model_copy(update={})
