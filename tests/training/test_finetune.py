"""Weights of one set of classes as the start of a training on another."""

import pytest
import torch

from htc.checkpoint.fit import KeyReport, LoadedWeights
from htc.config import Config, GuidedRPN, ResNet, Timm, ViT
from htc.errors import CheckpointError
from htc.model.detector import Detector
from htc.presets import PRESETS, preset
from htc.settings.layers import from_flags, overlay
from htc.training.finetune import other_normalization, start_from
from training.tiny import tiny


def with_classes(*names, semantic=None, agnostic=True):
    values = tiny().model_dump() | {"classes": names, "category_ids": tuple(range(1, len(names) + 1))}
    values["semantic"]["classes"] = len(names) + 1 if semantic is None else semantic
    values["cascade"]["class_agnostic_boxes"] = agnostic
    return Config.model_validate(values)


def weights_of(config):
    """Every row of a class layer carries the number of its class in the weights (background -1), so that a row tells
    where it came from.
    """
    state = Detector(config).state_dict()
    classes = list(range(config.num_classes))
    meaning = {".classify.": [*classes, -1], ".logits.": classes, "semantic.logits.": [-1, *classes]}
    meaning[".regress."] = (
        [-1] * 4 if config.cascade.class_agnostic_boxes else [one for one in classes for _ in range(4)]
    )
    for key, value in state.items():
        for part, rows in meaning.items():
            if part in f".{key}" and len(rows) == len(value) and not (part == ".logits." and "semantic" in key):
                value[:] = torch.tensor(rows, dtype=value.dtype).view(-1, *[1] * (value.ndim - 1))
    return LoadedWeights(config, state, KeyReport(), "weights")


def origins(detector, key):
    """What each row says it was, or None for a row that began at random."""
    value = detector.state_dict()[key].flatten(1)
    return [int(row[0]) if bool((row == row[0]).all()) else None for row in value]


@pytest.mark.parametrize("agnostic", [True, False])
def test_rows_of_classes_known_by_name_are_kept(agnostic):
    weights = weights_of(with_classes("cat", "dog", "bird", agnostic=agnostic))
    detector = Detector(with_classes("worm", "bird", "cat", agnostic=agnostic))
    start = start_from(detector, weights, "old.pth")
    for t in range(3):
        assert origins(detector, f"roi.box_heads.{t}.classify.weight") == [None, 2, 0, -1]
        assert origins(detector, f"roi.mask_heads.{t}.logits.weight") == [None, 2, 0]
        assert origins(detector, f"roi.box_heads.{t}.regress.weight") == (
            [-1] * 4 if agnostic else [None] * 4 + [2] * 4 + [0] * 4
        )
    assert origins(detector, "semantic.logits.weight") == [-1, None, 2, 0]
    assert torch.equal(detector.state_dict()["backbone.conv1.weight"], weights.state_dict["backbone.conv1.weight"])
    assert (start.kept_classes, start.new_classes) == (("bird", "cat"), ("worm",))
    assert {name.rsplit(".", 1)[-1] for name in start.new_layers} == {"classify", "logits"} | (
        set() if agnostic else {"regress"}
    )
    said = " ".join(start.lines())
    assert "old.pth" in said
    assert "class worm initialized at random; 2 classes (bird, cat) kept" in said


def test_the_same_classes_keep_everything():
    weights = weights_of(with_classes("cat", "dog"))
    detector = Detector(with_classes("cat", "dog"))
    start = start_from(detector, weights, "old.pth")
    assert all(torch.equal(value, weights.state_dict[key]) for key, value in detector.state_dict().items())
    assert start.new_layers == start.new_classes == ()
    assert "all layers start from old.pth" in start.lines()[0]


def test_as_many_classes_of_other_names_keep_no_row():
    """The shapes agree, the meaning does not."""
    detector = Detector(with_classes("fig", "date"))
    start_from(detector, weights_of(with_classes("cat", "dog")), "old.pth")
    assert origins(detector, "roi.box_heads.0.classify.weight") == [None, None, -1]
    assert origins(detector, "roi.mask_heads.2.logits.weight") == [None, None]


@pytest.mark.parametrize(("ours", "kept"), [(None, False), (9, True), (7, False)])
def test_a_map_that_was_not_derived_is_kept_only_by_one_as_large(ours, kept):
    weights = weights_of(with_classes("cat", "dog", semantic=9))
    detector = Detector(with_classes("cat", "dog", semantic=ours))
    start = start_from(detector, weights, "old.pth")
    assert ("semantic.logits" in start.new_layers) is not kept
    assert start.new_classes == ()


def test_weights_of_another_architecture_are_refused():
    wide = with_classes("cat", "dog")
    wide = wide.replace(cascade={"box_channels": 8})
    with pytest.raises(CheckpointError, match=r"another architecture: .*roi\.box_heads\.0\.fc\.0\.weight"):
        start_from(Detector(wide), weights_of(with_classes("cat", "dog")), "old.pth")


@pytest.mark.parametrize("guided", [True, False], ids=["onto guided anchoring", "onto a plain RPN"])
def test_a_trained_detector_is_finetuned_on_other_proposals(guided):
    """All but the layers that the two kinds of proposals do not share start from the weights, and that is said."""
    plain = with_classes("cat", "dog")
    other = plain.replace(rpn=GuidedRPN(anchor_scale=4.0))
    ours, theirs = (other, plain) if guided else (plain, other)
    weights, detector = weights_of(theirs), Detector(ours)
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    start = start_from(detector, weights, "old.pth")
    alone = {"location", "shape", "adaption.offset", "adaption.conv"} if guided else set()
    assert set(start.new_proposals) == {f"rpn.{layer}" for layer in {"objectness", "deltas", *alone}}
    for key, value in detector.state_dict().items():
        anew = key.rsplit(".", 1)[0] in start.new_proposals
        assert torch.equal(value, before[key] if anew else weights.state_dict[key]), key
    assert start.new_layers == ()
    assert start.lines()[0].startswith("all other layers start from old.pth")
    assert "rpn.objectness" in start.lines()[-1]


def test_proposals_of_one_kind_do_not_start_anew():
    """Another number of anchors is another architecture."""
    plain = with_classes("cat")
    detector = Detector(plain.replace(rpn={"anchor_ratios": (1.0,)}))
    with pytest.raises(CheckpointError, match=r"first is rpn\.objectness\.weight"):
        start_from(detector, weights_of(plain), "old.pth")


@pytest.mark.parametrize(
    ("backbone", "flags"),
    [
        (
            ViT(name="vit_base_patch16_224", pretrained=True),
            "--input.mean 127.5,127.5,127.5 --input.std 127.5,127.5,127.5",
        ),
        (Timm(name="dpn107", pretrained=True), "--input.mean 124,117,104 --input.std 59.8802,59.8802,59.8802"),
    ],
)
def test_weights_of_other_colors_are_spoken_of_and_the_named_flags_set_them(backbone, flags):
    config = tiny().replace(backbone=backbone)
    warning = other_normalization(config)
    assert warning is not None
    assert warning.endswith(f"add {flags}")
    _, mean, _, std = flags.split()
    assert other_normalization(overlay(config, from_flags([("input.mean", mean), ("input.std", std)]))) is None


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_have_the_colors_of_their_weights(name):
    assert other_normalization(preset(name)) is None


def test_a_stride_in_another_convolution_is_another_architecture():
    """All shapes agree."""
    plain = with_classes("cat").replace(backbone=ResNet(depth=50))
    first = plain.replace(backbone=ResNet(depth=50, stride_in="1x1"))
    detector = Detector(plain)
    with pytest.raises(CheckpointError, match=r"stride in the 1x1 .* add --backbone\.stride-in 1x1"):
        start_from(detector, LoadedWeights(first, detector.state_dict(), KeyReport(), "weights"), "old.pth")
    assert (
        start_from(
            Detector(first), LoadedWeights(first, detector.state_dict(), KeyReport(), "weights"), "old.pth"
        ).new_layers
        == ()
    )


@pytest.mark.parametrize(
    ("other", "flags"),
    [
        ({}, ()),
        ({"std": (1.0, 1.0, 1.0)}, ("--input.std 1,1,1",)),
        (
            {"mean": (127.5, 127.5, 90.25), "std": (1.0, 2.0, 1.0)},
            ("--input.mean 127.5,127.5,90.25", "--input.std 1,2,1"),
        ),
        ({"short_edge": 96}, ()),
    ],
)
def test_another_input_of_the_weights_is_said(other, flags):
    plain = with_classes("cat")
    theirs = plain.replace(input=other)
    start = start_from(Detector(plain), weights_of(theirs), "old.pth")
    assert start.other_input == flags
    said = [line for line in start.lines() if "normalization" in line]
    assert [all(flag in line for flag in flags) for line in said] == [True] * bool(flags)
