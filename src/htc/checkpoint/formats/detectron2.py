"""detectron2's Mask R-CNN and Cascade Mask R-CNN with a ResNet-FPN, onto our names, colours and configuration."""

from collections.abc import Iterable
from typing import Any

from htc.checkpoint.formats.detectron2_settings import (
    CELLS,
    PIXELS,
    WEIGHTS,
    assumed,
    read_anchors,
    read_colours,
    read_input,
)
from htc.checkpoint.formats.mmdetection_config import ConfigFacts
from htc.checkpoint.formats.renaming import rename
from htc.checkpoint.formats.told import Colours
from htc.checkpoint.formats.upgraded import Upgraded, pixel_major, rgb_stem
from htc.checkpoint.stored import Stored
from htc.errors import CheckpointError
from htc.model.layers import group_norm

_STAGES, _LAYERS = (2, 3, 4, 5), range(1, 9)
"""Of the backbone and neck; of heads that count theirs from one."""
_RULES = (
    (r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.bn1."),
    (r"^backbone\.bottom_up\.stem\.conv1\.", "backbone.conv1."),
    *((rf"^backbone\.bottom_up\.res{n}\.(\d+)\.conv(\d)\.norm\.", rf"backbone.layer{n - 1}.\1.bn\2.") for n in _STAGES),
    *(
        (rf"^backbone\.bottom_up\.res{n}\.(\d+)\.conv2_offset\.", rf"backbone.layer{n - 1}.\1.conv2.conv_offset.")
        for n in _STAGES
    ),
    *(
        (rf"^backbone\.bottom_up\.res{n}\.(\d+)\.shortcut\.norm\.", rf"backbone.layer{n - 1}.\1.downsample.1.")
        for n in _STAGES
    ),
    *(
        (rf"^backbone\.bottom_up\.res{n}\.(\d+)\.shortcut\.", rf"backbone.layer{n - 1}.\1.downsample.0.")
        for n in _STAGES
    ),
    *((rf"^backbone\.bottom_up\.res{n}\.", f"backbone.layer{n - 1}.") for n in _STAGES),
    *((rf"^backbone\.fpn_lateral{n}\.(weight|bias)$", rf"neck.lateral.{n - 2}.conv.\1") for n in _STAGES),
    *((rf"^backbone\.fpn_lateral{n}\.norm\.", f"neck.lateral.{n - 2}.norm.") for n in _STAGES),
    *((rf"^backbone\.fpn_output{n}\.(weight|bias)$", rf"neck.output.{n - 2}.conv.\1") for n in _STAGES),
    *((rf"^backbone\.fpn_output{n}\.norm\.", f"neck.output.{n - 2}.norm.") for n in _STAGES),
    (r"^proposal_generator\.rpn_head\.conv\.conv0\.", "rpn.conv."),
    *((rf"^proposal_generator\.rpn_head\.conv\.conv{n}\.", f"rpn.further.{n - 1}.") for n in _LAYERS),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.conv."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas."),
    *(
        (rf"^roi\.box_heads\.(\d)\.conv{n}\.(weight|bias)$", rf"roi.box_heads.\1.convs.{n - 1}.conv.\2")
        for n in _LAYERS
    ),
    *((rf"^roi\.box_heads\.(\d)\.conv{n}\.norm\.", rf"roi.box_heads.\1.convs.{n - 1}.norm.") for n in _LAYERS),
    *((rf"^roi\.box_heads\.(\d)\.fc{n}\.", rf"roi.box_heads.\1.fc.{n - 1}.") for n in _LAYERS),
    (r"^roi\.box_heads\.(\d)\.cls_score\.", r"roi.box_heads.\1.classify."),
    (r"^roi\.box_heads\.(\d)\.bbox_pred\.", r"roi.box_heads.\1.regress."),
    *(
        (rf"^roi_heads\.mask_head\.mask_fcn{n}\.(weight|bias)$", rf"roi.mask_heads.0.convs.{n - 1}.conv.\1")
        for n in _LAYERS
    ),
    *((rf"^roi_heads\.mask_head\.mask_fcn{n}\.norm\.", f"roi.mask_heads.0.convs.{n - 1}.norm.") for n in _LAYERS),
    (r"^roi_heads\.mask_head\.deconv\.", "roi.mask_heads.0.upsample."),
    (r"^roi_heads\.mask_head\.predictor\.", "roi.mask_heads.0.logits."),
)
_BOX_HEAD = (
    (r"^roi_heads\.box_(?:head|predictor)\.(\d)\.", r"roi.box_heads.\1."),
    (r"^roi_heads\.box_(?:head|predictor)\.", "roi.box_heads.0."),
)
"""Layers of a cascade's stages are numbered; a single stage's are not."""
_GROUPS = 32
"""Of every GroupNorm there."""
_UNKNOWN = (
    "the file does not say how its ResNet was built: set backbone.stride_in to 1x1 (MSRA's ImageNet weights, BGR "
    "input; most of detectron2's model zoo) "
    "or to 3x3 (the zoo's X_101, X_152 and syncbn, BGR too; torchvision's ImageNet weights, RGB); where no such flag "
    "is taken, convert it first: "
    "htc convert {path} DIR --backbone.stride-in 1x1"
)


def is_detectron2(names: Iterable[str]) -> bool:
    """Whether a state dict has the names of detectron2's two-stage detectors."""
    return any(name.startswith("proposal_generator.rpn_head.") for name in names)


def read_detectron2(stored: Stored, stride_in: str | None, colours: Colours | None) -> Upgraded:
    """Its weights under our names.

    `stride_in`: the field of our `ResNet`, which no shape shows. `colours`: as told by the user; the stem of a network
    that reads BGR becomes one for RGB. Raises `CheckpointError` where either is not known, and for norms and anchors
    that ours cannot express.
    """
    if stride_in not in ("1x1", "3x3"):
        raise CheckpointError(f"{stored.path}: {_UNKNOWN.format(path=stored.path)}")
    order = read_colours(stored, stride_in, colours)
    result = Upgraded(None, {}, None, ConfigFacts(), None)
    for theirs, tensor in stored.tensors.items():
        if theirs.startswith(CELLS) or theirs in PIXELS:
            where = "rpn.anchor_scale and rpn.anchor_ratios" if theirs.startswith(CELLS) else "input.mean and input.std"
            result.dropped.append((theirs, f"configuration, read into {where}"))
        else:
            result.put(stored.path, theirs, rename(rename(theirs, _BOX_HEAD), _RULES), tensor)
    _check_norms(stored, result)
    if order == "bgr":
        rgb_stem(result)
    pixel_major(result)
    stages = sum(f"roi.box_heads.{stage}.classify.weight" in result.weights for stage in range(len(WEIGHTS)))
    fields = {**read_anchors(stored), **read_input(stored, stride_in, order), **_meaning(max(stages, 1), stride_in)}
    result.facts.fields.update(fields)
    result.notes.append(assumed(stored, max(stages, 1), fields))
    _one_mask_of_all_classes(result)
    _one_mask_head(result, stages)
    return result


def _meaning(stages: int, stride_in: str) -> dict[str, Any]:
    """What no shape shows: detectron2's own settings."""
    fields: dict[str, Any] = {
        "backbone.stride_in": stride_in,
        "backbone.norm": "frozen",
        "cascade.delta_stds": tuple((1 / weight, 1 / weight, 2 / weight, 2 / weight) for weight in WEIGHTS[:stages]),
        "cascade.pooling": "align",
        "inference.score_ensemble": "probabilities",
        "inference.score_threshold": 0.05,
    }
    return fields if stages == 1 else {**fields, "inference.mask_stages": (1,)}


def _check_norms(stored: Stored, result: Upgraded) -> None:
    """Norms without statistics have groups, of which no shape tells: 32 there whatever the width, fewer here in
    narrow layers.
    """
    scales = (
        name
        for name in result.weights
        if name.endswith((".norm.weight", "bn1.weight", "bn2.weight", "bn3.weight", "downsample.1.weight"))
    )
    for name in scales:
        if name.replace(".weight", ".running_mean") in result.weights:
            continue
        theirs = result.renamed.get(name, name)
        if name.startswith("backbone."):
            raise CheckpointError(
                f"{stored.path}: its backbone has GroupNorm ({theirs} without running_mean), which ours has not: not "
                f"supported"
            )
        channels = len(result.weights[name])
        if group_norm(channels).num_groups != _GROUPS:
            raise CheckpointError(
                f"{stored.path}: {theirs} is GroupNorm of {_GROUPS} groups over {channels} channels, ours has fewer "
                f"groups: not supported"
            )


def _one_mask_of_all_classes(result: Upgraded) -> None:
    """Masks that are the same for every class have one row there; here each class has its own, all equal."""
    classes = len(result.weights.get("roi.box_heads.0.classify.bias", ())) - 1
    for leaf in ("weight", "bias"):
        name = f"roi.mask_heads.0.logits.{leaf}"
        if classes > 1 and len(result.weights.get(name, ())) == 1:
            result.change(
                name,
                f"the one mask of all classes repeated for each of {classes}",
                lambda rows: rows.repeat(classes, *[1] * (rows.dim() - 1)),
            )


def _one_mask_head(result: Upgraded, stages: int) -> None:
    """detectron2's cascade has one mask head, on the final boxes; ours has one a stage: copies, of which the first
    alone is used.
    """
    first = "roi.mask_heads.0."
    for name in [name for name in result.weights if name.startswith(first)]:
        for stage in range(1, stages):
            copy = name.replace(first, f"roi.mask_heads.{stage}.")
            result.weights[copy] = result.weights[name].clone()
            result.filled.append((copy, "a copy of the one mask head there is; prediction uses the first"))
