"""One way in: names, folders, files, and what happens when they contradict what the user says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint.historical import CLASSES, as_v2, random_state, save_v2, tiny_config
from htc import presets
from htc.checkpoint.load import explicit_fields, load_model, overlay_file
from htc.checkpoint.native import save_pretrained
from htc.config import Config
from htc.errors import CheckpointError, ConfigError

CONFIG = tiny_config()
STATE = random_state(CONFIG)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_v2(tmp_path_factory.mktemp("weights") / "a.pth", as_v2(STATE))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset of the tiny model, with other class names."""
    config = Config.model_validate(
        {**CONFIG.model_dump(), "preset": "tiny", "classes": ("a", "b", "c", "d"), "category_ids": (4, 3, 2, 1)}
    )
    monkeypatch.setitem(presets.PRESETS, "tiny", lambda: config)
    return "tiny"


def test_a_preset_with_a_weights_file_takes_class_names_from_the_file(tiny: str, weights: Path) -> None:
    loaded = load_model(tiny, weights)
    assert loaded.config.preset == "tiny"
    assert (loaded.config.classes, loaded.config.category_ids) == (CLASSES, (1, 2, 3))
    assert torch.equal(loaded.state_dict["rpn.conv.weight"], STATE["rpn.conv.weight"])


def test_class_names_that_the_user_gives_must_fit(tiny: str, weights: Path) -> None:
    assert load_model(tiny, weights, {"classes": ("x", "y", "z")}).config.classes == ("x", "y", "z")
    with pytest.raises(CheckpointError, match=r"classes .number of.: the weights have 3, the configuration has 2"):
        load_model(tiny, weights, {"classes": ("x", "y")})


STAGE_ONE = {"num_stages": 1, "delta_stds": ((0.1, 0.1, 0.2, 0.2),), "ious": (0.5,), "loss_weights": (1.0,)}


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"backbone": {"depth": 34}}, "backbone.depth: the weights have 18, the configuration has 34"),
        ({"cascade": {"box_channels": 16}}, "cascade.box_channels: the weights have 8"),
        ({"cascade": STAGE_ONE}, "cascade.num_stages: the weights have 3, the configuration has 1"),
        ({"neck": {"kind": "pafpn", "channels": 8}}, "neck.kind: the weights have fpn"),
        ({"semantic": {"classes": 6}}, "semantic.classes: the weights have 5"),
        ({"rpn": {"anchor_ratios": (1.0,)}}, "rpn.anchor_ratios .number of.: the weights have 3"),
    ],
)
def test_fields_that_contradict_the_weights_are_named(
    weights: Path, tmp_path: Path, overrides: dict[str, Any], field: str
) -> None:
    folder = save_pretrained(STATE, CONFIG, tmp_path)
    for model in (weights, folder, folder / "model.safetensors"):
        with pytest.raises(CheckpointError, match=field):
            load_model(model, overrides=overrides)


def test_all_contradictions_at_once(weights: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_model("mask_rcnn_r50_fpn_1x_coco", weights)
    for field in ("backbone.depth", "cascade.num_stages", "cascade.mask_flow", "neck.channels", "semantic"):
        assert f"{field}" in str(caught.value)


def test_switches_turned_off_on_purpose_drop_their_weights(tiny: str, weights: Path) -> None:
    flow = load_model(tiny, weights, {"cascade": {"mask_flow": False}})
    assert {name for name, _ in flow.report.dropped} == {
        f"roi_head.mask_head.{stage}.conv_res.conv.{leaf}" for stage in (1, 2) for leaf in ("weight", "bias")
    }
    assert all("mask flow is disabled" in reason for _, reason in flow.report.dropped)
    assert not any("mask_flows" in name for name in flow.state_dict)
    bare = load_model(tiny, weights, {"semantic": None, "cascade": {"semantic_fusion": "none"}})
    assert all("semantic branch is disabled" in reason for _, reason in bare.report.dropped)
    assert len(bare.report.dropped) == sum(name.startswith("semantic.") for name in STATE)
    for fusion in ("none", "box", "mask"):
        assert not load_model(tiny, weights, {"cascade": {"semantic_fusion": fusion}}).report.dropped


def test_the_same_in_a_preset_without_a_word_from_the_user_is_a_contradiction(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate(
        {**CONFIG.model_dump(), "cascade": {**CONFIG.cascade.model_dump(), "mask_flow": False}}
    )
    monkeypatch.setitem(presets.PRESETS, "flowless", lambda: config)
    with pytest.raises(CheckpointError, match=r"cascade.mask_flow: the weights have true, the configuration has false"):
        load_model("flowless", weights)


def test_a_file_that_turns_its_own_flow_off(tmp_path: Path) -> None:
    text = "model = dict(type='HybridTaskCascade', roi_head=dict(mask_info_flow=False))"
    loaded = load_model(save_v2(tmp_path / "a.pth", as_v2(STATE), text))
    assert loaded.config.cascade.mask_flow is False
    assert len(loaded.report.dropped) == 4
    flowless = {name: tensor for name, tensor in STATE.items() if "mask_flows" not in name}
    with pytest.raises(CheckpointError, match="mask_flow"):
        load_model(save_v2(tmp_path / "b.pth", as_v2(flowless)), overrides={"cascade": {"mask_flow": True}})


def test_what_shapes_do_not_show_is_compared_with_the_files_text(tiny: str, tmp_path: Path) -> None:
    stage = "dict(bbox_coder=dict(target_stds=[0.1, 0.1, 0.2, 0.2]))"
    text = f"model = dict(type='HybridTaskCascade', roi_head=dict(bbox_head=[{stage}, {stage}, {stage}]))"
    path = save_v2(tmp_path / "a.pth", as_v2(STATE), text)
    with pytest.raises(CheckpointError, match=r"cascade.delta_stds: the file has"):
        load_model(tiny, path)
    assert load_model(path).config.cascade.delta_stds[2] == (0.1, 0.1, 0.2, 0.2)


@pytest.mark.parametrize(
    ("ours", "field"),
    [
        ({"rpn": {"anchor_scale": 4.0}}, "rpn.anchor_scale: the file has 8.0, the configuration has 4.0"),
        ({"input": {"mean": (1.0, 2.0, 3.0)}}, "input.mean"),
        (
            {"cascade": {"semantic_fusion": "box"}},
            "cascade.semantic_fusion: the file has both, the configuration has box",
        ),
    ],
)
def test_a_native_model_trained_otherwise_than_the_preset(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: dict[str, Any], field: str
) -> None:
    folder = save_pretrained(STATE, CONFIG, tmp_path)
    otherwise = overlay_file(presets.PRESETS[tiny](), ours)
    monkeypatch.setitem(presets.PRESETS, "otherwise", lambda: otherwise)
    for weights in (folder, folder / "model.safetensors"):
        assert load_model(tiny, weights).config.rpn == CONFIG.rpn
        with pytest.raises(CheckpointError, match=field):
            load_model("otherwise", weights)
        assert load_model(tiny, weights, ours).report.fits  # said on purpose


def test_category_ids_come_from_our_own_files_and_from_the_user(tiny: str, tmp_path: Path) -> None:
    folder = save_pretrained(STATE, CONFIG.replace(category_ids=(7, 9, 11)), tmp_path)
    for weights in (folder, folder / "model.safetensors"):
        assert load_model(weights).config.category_ids == (7, 9, 11)
        loaded = load_model(tiny, weights).config
        assert (loaded.classes, loaded.category_ids) == (CLASSES, (7, 9, 11))
        chosen = {"classes": ("x", "y", "z"), "category_ids": (1, 5, 6)}
        assert load_model(tiny, weights, chosen).config.category_ids == (1, 5, 6)


def test_too_few_class_names_from_the_user_are_the_users_not_the_files(weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"classes .number of.: the weights have 3, the configuration has 2"):
        load_model(weights, overrides={"classes": ("x", "y")})


def test_invalid_values_are_found_before_the_weights_are_looked_at() -> None:
    with pytest.raises(ConfigError) as caught:
        load_model("htc_r50_fpn_1x_coco", "none.pth", {"rpn": {"proposals": 0}, "cascade": {"interleave": True}})
    assert "rpn.proposals" in str(caught.value)
    assert "cascade.interleave" in str(caught.value)


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        ("htc_r50_fpn_1x", ConfigError, "did you mean htc_r50_fpn_1x_coco"),
        ("somewhere/model.pth", CheckpointError, "no such file"),
        ("model.pth", CheckpointError, "no such file"),
        ("htc_r18_small", CheckpointError, "no released weights"),
    ],
)
def test_models_that_are_not_there(model: str, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        load_model(model)


def test_weights_that_are_not_there_and_two_weights(weights: Path) -> None:
    with pytest.raises(CheckpointError, match="no such weights file"):
        load_model("htc_r50_fpn_1x_coco", "none.pth")
    with pytest.raises(ConfigError, match="already a weights file"):
        load_model(weights, weights)


def test_a_folder_with_other_weights(weights: Path, tmp_path: Path) -> None:
    other = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in STATE.items()}
    folder = save_pretrained(other, CONFIG, tmp_path / "run" / "model").parent
    assert torch.equal(load_model(folder, weights).state_dict["rpn.conv.bias"], STATE["rpn.conv.bias"])
    assert torch.equal(load_model(weights.parent / "a.pth").state_dict["rpn.conv.bias"], STATE["rpn.conv.bias"])
    assert torch.equal(load_model(folder, folder).state_dict["rpn.conv.bias"], other["rpn.conv.bias"])


def test_overlay_replaces_variants_and_merges_sections() -> None:
    config = overlay_file(
        CONFIG,
        {
            "neck": {"kind": "pafpn", "channels": 8},
            "inference": {"nms_iou": 0.4},
            "training": {"optimizer": {"kind": "adamw"}},
        },
    )
    assert config.neck.kind == "pafpn"
    assert (config.inference.nms_iou, config.inference.max_detections) == (0.4, 100)
    assert config.training.optimizer.lr == 3e-4
    assert overlay_file(CONFIG, {}) is CONFIG
    assert explicit_fields({"a": {"b": {"c": 1}}, "d": None}) == {"a", "a.b", "a.b.c", "d"}
    assert explicit_fields({"cascade": {"mask-flow": False}}) == {"cascade", "cascade.mask_flow"}
