"""The layers of a configuration: who wins, what stays, and that every fault is named with its source."""

import json
from pathlib import Path

import pytest

from htc.config import PAFPN, RPN, AdamW, Config, GuidedRPN
from htc.errors import ConfigError
from htc.presets import PRESETS, preset
from htc.settings.layers import (
    Setting,
    check_alone,
    from_environment,
    from_file,
    from_flags,
    from_values,
    gather,
    nested,
    overlay,
    resolve,
    to_yaml,
)

BASE = "htc_r50_fpn_1x_coco"


def resolved(
    tmp_path: Path,
    file: str = "",
    environment: dict[str, str] | None = None,
    flags: tuple[tuple[str, str], ...] = (),
    base: str = BASE,
) -> Config:
    path = tmp_path / "own.yaml"
    path.write_text(file)
    return resolve(gather(path, environment or {}, flags), base)


def fault(settings: list[Setting], base: str = BASE) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(settings, base)
    return str(caught.value)


def test_each_layer_wins_over_the_one_below(tmp_path: Path) -> None:
    file, environment, flag = (
        "inference: {nms_iou: 0.1}",
        {"HTC_INFERENCE__NMS_IOU": "0.2"},
        (("inference.nms_iou", "0.3"),),
    )
    assert resolved(tmp_path).inference.nms_iou == preset(BASE).inference.nms_iou == 0.5
    assert resolved(tmp_path, file).inference.nms_iou == 0.1
    assert resolved(tmp_path, file, environment).inference.nms_iou == 0.2
    assert resolved(tmp_path, file, environment, flag).inference.nms_iou == 0.3


def test_one_named_field_keeps_all_others(tmp_path: Path) -> None:
    before = preset("htc_r18_small")
    changed = resolved(tmp_path, "cascade: {mask_flow: false}", base="htc_r18_small")
    assert changed == before.replace(cascade={"mask_flow": False})


@pytest.mark.parametrize("name", PRESETS)
def test_flags_never_reset_a_preset_to_python_defaults(name: str) -> None:
    before = preset(name)
    changed = resolve(from_flags([("input.short_edge", "123")]), name)
    assert changed == before.replace(input={"short_edge": 123})


def test_no_setting_gives_the_preset_itself() -> None:
    assert resolve([], BASE) == preset(BASE)


def test_a_changed_kind_replaces_the_whole_variant() -> None:
    config = resolve(from_flags([("neck.norm", "group"), ("neck.kind", "pafpn")]), "htc_r50_fpn_1x_coco")
    assert config.neck == PAFPN(norm="group")
    small = preset("htc_r18_small")
    assert resolve(from_flags([("neck.kind", "pafpn"), ("neck.channels", "64")]), small.preset).neck == PAFPN(
        channels=64
    )  # norm: group is gone
    config = resolve(from_values({"training": {"optimizer": {"weight_decay": 0.1, "kind": "adamw"}}}), BASE)
    assert config.training.optimizer == AdamW(weight_decay=0.1)


def test_the_same_kind_again_keeps_the_fields() -> None:
    assert resolve(from_flags([("neck.kind", "fpn")]), "htc_r18_small") == preset("htc_r18_small")


def test_an_absent_section_can_be_filled_in() -> None:
    config = resolve(
        from_flags([("semantic.loss_weight", "1"), ("cascade.semantic_fusion", "box")]),
        "cascade_mask_rcnn_r50_fpn_1x_coco",
    )
    assert config.semantic is not None
    assert config.semantic.loss_weight == 1
    assert config.semantic.classes == 183


@pytest.mark.parametrize("word", ["none", "None", "null", "~"])
def test_none_means_absent_only_where_a_value_may_be_absent(word: str) -> None:
    config = resolve(
        from_flags([("semantic", word), ("cascade.semantic_fusion", "none"), ("inference.box_stage", word)]), BASE
    )
    assert config.semantic is None
    assert config.cascade.semantic_fusion == "none"
    assert config.inference.box_stage is None


@pytest.mark.parametrize("text", ["0.5,0.6,0.65", "[0.5, 0.6, 0.65]", "[0.5,0.6,6.5e-1]"])
def test_tuples_are_lists_or_comma_separated(text: str) -> None:
    assert resolve(from_flags([("cascade.ious", text)]), BASE).cascade.ious == (0.5, 0.6, 0.65)


def test_names_take_dashes_or_underscores() -> None:
    assert not resolve(from_flags([("cascade.mask-flow", "false")]), BASE).cascade.mask_flow
    assert not resolve(from_values({"cascade": {"mask-flow": False}}), BASE).cascade.mask_flow


def test_the_environment_has_sections_behind_double_underscores() -> None:
    settings = from_environment(
        {
            "HTC_CASCADE__INTERLEAVED": "false",
            "HTC_CACHE": "/x",
            "HTC_SEMANTIC": "",
            "OTHER__X": "1",
            "HTC_PRECISION": "bf16",
        }
    )
    assert nested(settings) == {"cascade": {"interleaved": False}, "precision": "bf16"}


def test_the_preset_may_come_from_any_layer(tmp_path: Path) -> None:
    assert resolved(tmp_path, "preset: htc_r18_small") == preset("htc_r18_small")
    assert resolved(tmp_path, "preset: htc_r18_small", {"HTC_PRESET": "htc_r101_fpn_20e_coco"}).backbone.depth == 101
    assert "--preset: there is no preset 'htc_r50_fpn_2x_coco'; did you mean htc_r50_fpn_1x_coco" in fault(
        from_flags([("preset", "htc_r50_fpn_2x_coco")])
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_printed_configuration_reads_back(name: str, tmp_path: Path) -> None:
    assert resolved(tmp_path, to_yaml(preset(name)), base=BASE) == preset(name)
    assert resolved(tmp_path, json.dumps(preset(name).model_dump(mode="json"))) == preset(name)


def test_a_custom_configuration_stands_alone(tmp_path: Path) -> None:
    config = resolved(tmp_path, "preset: custom\nclasses: [cat, dog]\ncategory_ids: [3, 5]\n")
    assert config == Config(classes=("cat", "dog"), category_ids=(3, 5))


def test_overrides_stay_apart_from_a_checkpoints_own_configuration() -> None:
    own = preset("htc_r18_small")
    settings = from_flags([("inference.nms_iou", "0.4")])
    assert nested(settings) == {"inference": {"nms_iou": 0.4}}
    assert overlay(own, settings) == own.replace(inference={"nms_iou": 0.4})
    assert overlay(own, []) is own
    with pytest.raises(
        ConfigError, match=r"--preset: the preset is htc_r50_fpn_1x_coco, but this model is htc_r18_small"
    ):
        overlay(own, from_flags([("preset", BASE)]))


def test_all_faults_come_at_once_with_their_sources(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("cascade: {mask_flwo: false}\nrpn: {samples: many}\nneck: {kind: fpnn}\n")
    message = fault(
        gather(
            path,
            {"HTC_INFERENCE__NMS_IUO": "0.3"},
            [("inference.mask_threshold", "1.5"), ("cascad.ious", "1"), ("rpn.proposals", "true")],
        )
    )
    lines = message.splitlines()
    assert lines[0] == "7 settings cannot be used:"
    assert f"  {path}: cascade.mask_flwo: there is no such setting; did you mean cascade.mask_flow?" in lines
    assert any(
        line.startswith(f"  {path}: rpn.samples: should be a valid integer") and line.endswith("(got 'many')")
        for line in lines
    )
    assert f"  {path}: neck.kind: there is no kind 'fpnn', only 'fpn', 'pafpn', 'rfp'" in lines
    assert "  HTC_INFERENCE__NMS_IUO: there is no such setting; did you mean inference.nms_iou?" in lines
    assert "  --inference.mask_threshold: should be less than or equal to 1 (got 1.5)" in lines
    assert "  --cascad.ious: there is no such setting; did you mean cascade.ious?" in lines
    assert any(line.startswith("  --rpn.proposals: should be a valid integer") for line in lines)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (("lr", "1"), "--lr: there is no such setting; did you mean training.optimizer.lr?"),
        (("qqq", "1"), "--qqq: there is no such setting; --print-config lists all settings"),
        (("training.optimizer.momentum.x", "1"), "--training.optimizer.momentum.x: "),
        (("cascade", "3"), "--cascade: is a section, not a value (got 3): set cascade.<name>"),
        (
            ("semantic", "none"),
            "--semantic: cascade.semantic_fusion is 'both' but semantic is null: set cascade.semantic_fusion to none",
        ),
        (
            ("cascade.num_stages", "1"),
            "--cascade.num_stages: delta_stds has 3 values for num_stages = 1: give one value per stage",
        ),
        (("neck.channels", "128"), "--neck.channels: semantic.channels 256 must equal neck.channels 128"),
        (("cascade.ious", "0.5,7,0.7"), "--cascade.ious: should be less than or equal to 1 (got 7)"),
        (("input.short_edge", "[1"), "--input.short_edge: should be a valid integer"),
        (("input.short_edge", ""), "--input.short_edge: should be a valid integer"),
    ],
)
def test_a_fault_is_named_with_the_remedy(flag: tuple[str, str], message: str) -> None:
    assert fault(from_flags([flag])).startswith(message)


def test_a_field_of_another_variant_is_named_as_such() -> None:
    assert "--training.optimizer.momentum: does not belong to this kind of training.optimizer" in fault(
        from_flags([("training.optimizer.kind", "adamw"), ("training.optimizer.momentum", "0.5")])
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "is not YAML"),
        (b"- 1", "must contain sections and values"),
        (b"\xff\xfe\x00", "is not text"),
        (b"7", "must contain sections"),
    ],
)
def test_an_unusable_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        from_file(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        from_file(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        from_file(tmp_path)


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert resolved(tmp_path, "") == preset(BASE)
    assert resolved(tmp_path, "cascade: {}") == preset(BASE)


def test_what_no_configuration_takes_is_found_before_any_model_is_known() -> None:
    fitting = [
        ("cascade.interleaved", "false"),
        ("neck.kind", "pafpn"),
        ("semantic", "null"),
        ("inference.mask_stages", "1,2"),
        ("rpn.samples", "8"),
    ]
    check_alone(from_flags([*fitting, ("training.optimizer.momentum", "0.5"), ("cascade.num_stages", "2")]))
    wrong = [
        ("cascade.interleavd", "false"),
        ("inference.nms_iou", "7"),
        ("inference.mask_stages", "0,2"),
        ("neck.channels", "x"),
        ("input.mean", "nan,1,1"),
    ]
    with pytest.raises(ConfigError) as caught:
        check_alone(from_flags(wrong))
    lines = str(caught.value).splitlines()
    assert lines[0] == "5 settings cannot be used:"
    assert lines[1] == "  --cascade.interleavd: there is no such setting; did you mean cascade.interleaved?"
    for line, (name, _) in zip(lines[1:], wrong, strict=True):
        assert f"--{name}: " in line


def test_custom_starts_from_whole_sections_so_that_one_field_of_a_kind_can_be_set() -> None:
    named = [("preset", "custom"), ("classes", "[a]"), ("category_ids", "[1]")]
    config = resolve(from_flags([*named, ("rpn.samples", "5"), ("neck.channels", "256")]), BASE)
    assert config.rpn == RPN(samples=5)
    guided = resolve(from_flags([*named, ("rpn.proposals", "7"), ("rpn.kind", "guided_rpn")]), BASE)
    assert guided.rpn == GuidedRPN(proposals=7)
    with pytest.raises(ConfigError, match=r"neck\.channels divisible by 4, not 6"):
        resolve(
            from_flags([*named, ("rpn.kind", "guided_rpn"), ("neck.channels", "6"), ("semantic.channels", "6")]), BASE
        )
