"""Convert checkpoints of detectron2's Mask R-CNN and Cascade Mask R-CNN with a ResNet-FPN.

First the settings in the file (channel order, mean and standard deviation of the input, anchors) and the defaults that
are assumed if it has none; then the parameter names.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from htc.checkpoint.facts import Colors
from htc.checkpoint.formats.base import ConvertedWeights, pixel_major, rename, rgb_stem
from htc.checkpoint.formats.mmdetection_config import ConfigFacts
from htc.checkpoint.stored import Stored
from htc.errors import CheckpointError
from htc.model.norms import group_norm
from htc.ops.boxes import anchors_at

CELLS = "proposal_generator.anchor_generator.cell_anchors."
PIXELS = ("pixel_mean", "pixel_std")
LAST_STAGE_WEIGHTS = (10, 20, 30)
"""Weights of the box deltas of each stage; half as much for width and height."""
MEAN = (123.675, 116.28, 103.53)
STD = {"1x1": (1.0, 1.0, 1.0), "3x3": (58.395, 57.12, 57.375)}
"""By `backbone.stride_in`, in the order red, green, blue, like `MEAN`."""
ANCHORS = {"rpn.anchor_scale": 8.0, "rpn.anchor_ratios": (0.5, 1.0, 2.0)}
_STRIDES = (4, 8, 16, 32, 64)


def read_colors(stored: Stored, stride_in: str, given: Colors | None) -> Colors:
    """Return the channel order of the network's input.

    It is taken from the file's mean if this is not gray; else it is `given`; else BGR for MSRA's ResNets, which exist
    only in this order. Raises `CheckpointError` if `given` contradicts the mean, and if the order is unknown.
    """
    mean = _pixels(stored, "pixel_mean")
    recorded: Colors | None = None if mean is None or mean[0] == mean[2] else "bgr" if mean[0] < mean[2] else "rgb"
    if recorded is not None and given is not None and recorded != given:
        raise CheckpointError(
            f"{stored.path}: its pixel_mean {mean} is in the order {recorded}, not {given}: remove --colors"
        )
    known = recorded or given or ("bgr" if stride_in == "1x1" else None)
    if known is None:
        raise CheckpointError(
            f"{stored.path}: the file does not record the channel order of its input, and with backbone.stride_in 3x3 "
            f"both exist: bgr in detectron2's own model zoo (X_101, X_152, syncbn), rgb if the training started from "
            f"torchvision's ImageNet weights. Set it when converting: htc convert {stored.path} DIR "
            f"--backbone.stride-in 3x3 --colors bgr|rgb"
        )
    return known


def read_input(stored: Stored, stride_in: str, colors: Colors) -> dict[str, Any]:
    """Return mean and standard deviation of the input in the order red, green, blue: the file's, else detectron2's for
    this ResNet.
    """
    fields = {}
    for name, field, default in zip(PIXELS, ("input.mean", "input.std"), (MEAN, STD[stride_in]), strict=True):
        values = _pixels(stored, name)
        fields[field] = default if values is None else values[::-1] if colors == "bgr" else values
    return fields


def read_anchors(stored: Stored) -> dict[str, Any]:
    """Return scale and ratios of the anchors: those in the file, else detectron2's defaults.

    Raises `CheckpointError` unless the anchors have one scale (in units of the stride) and the same ratios on all five
    levels.
    """
    cells = {
        name.removeprefix(CELLS): tensor.float() for name, tensor in stored.tensors.items() if name.startswith(CELLS)
    }
    if not cells:
        return dict(ANCHORS)
    levels = [cells.get(str(level)) for level in range(len(_STRIDES))]
    if len(cells) == len(levels) and (anchors := _side_and_ratios(levels)) is not None:
        return {"rpn.anchor_scale": anchors[0], "rpn.anchor_ratios": anchors[1]}
    raise CheckpointError(
        f"{stored.path}: its anchors are not supported: they need one scale in units of the stride (4, 8, 16, 32, 64) "
        f"and the same ratios on each of five levels"
    )


def assumed(stored: Stored, stages: int, fields: dict[str, Any]) -> str:
    """Return a note for the report on detectron2's defaults that are assumed because the file does not record them."""
    weights = ", ".join(map(str, LAST_STAGE_WEIGHTS[:stages]))
    parts = [f"box delta weights {weights} (cascade.delta_stds)", "aligned pooling (cascade.pooling)"]
    if not any(name.startswith(CELLS) for name in stored.tensors):
        parts.append("anchor sizes 32 to 512 and ratios 0.5, 1, 2 (rpn.anchor_scale, rpn.anchor_ratios)")
    for name, field in zip(PIXELS, ("input.mean", "input.std"), strict=True):
        if name not in stored.tensors:
            parts.append(f"{field} {fields[field]}")
    if "pixel_std" not in stored.tensors and fields["backbone.stride_in"] == "3x3":
        # Models with this stride have one of two input scales, which differ by a factor of 57.
        parts[-1] += (
            ", which fits X_101 and torchvision's weights; X_152 and syncbn of its model zoo need --input.std 1,1,1"
        )
    return f"not recorded in the file, so detectron2's defaults are used: {'; '.join(parts)}"


def _side_and_ratios(levels: list[Tensor | None]) -> tuple[float, tuple[float, ...]] | None:
    """Return the scale (side / stride) and the ratios h / w if anchors computed from them equal those of every level to
    a tenth of a pixel, else None.
    """
    first = levels[0]
    if first is None or first.dim() != 2 or first.shape[1] != 4 or not len(first):
        return None
    widths, heights = (first[:, 2:] - first[:, :2]).unbind(1)
    side = _written(float((widths[0] * heights[0]).sqrt()) / _STRIDES[0])
    ratios = tuple(_written(ratio) for ratio in (heights / widths).tolist())
    for cells, stride in zip(levels, _STRIDES, strict=True):
        ours = anchors_at(torch.arange(len(ratios)), 1, stride, side, ratios)
        if cells is None or cells.shape != ours.shape or not torch.allclose(cells, ours, atol=0.1):
            return None
    return side, ratios


def _pixels(stored: Stored, name: str) -> tuple[float, ...] | None:
    """Return the three values of a buffer, in the file's order."""
    tensor = stored.tensors.get(name)
    if tensor is None:
        return None
    values = tuple(_written(value) for value in tensor.double().flatten().tolist())
    if len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise CheckpointError(
            f"{stored.path}: its {name} is {values[:4]}; three numbers are supported, one per channel"
        )
    return values


def _written(value: float) -> float:
    """Return the decimal number that was rounded to this float32: 116.28, not 116.27999878."""
    return float(f"{value:.6g}")


_STAGES, _LAYERS = (2, 3, 4, 5), range(1, 9)
"""Stage numbers of the backbone and neck; layer numbers of heads, from one."""
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
"""The stages of a cascade are numbered in the file; a single stage is not."""
_GROUPS = 32
"""Groups of every GroupNorm in detectron2."""
_UNKNOWN = (
    "the file does not record the stride of its ResNet: set backbone.stride_in to 1x1 (MSRA's ImageNet weights, BGR "
    "input; most of detectron2's model zoo) or to 3x3 (the zoo's X_101, X_152 and syncbn, also BGR; torchvision's "
    "ImageNet weights, RGB). If a command has no such flag, convert the file first: htc convert {path} DIR "
    "--backbone.stride-in 1x1"
)


def is_detectron2(names: Iterable[str]) -> bool:
    """Return whether a state dict has the names of detectron2's two-stage detectors."""
    return any(name.startswith("proposal_generator.rpn_head.") for name in names)


def read_detectron2(stored: Stored, stride_in: str | None, colors: Colors | None) -> ConvertedWeights:
    """Convert a checkpoint of detectron2.

    `stride_in`: the field of our `ResNet`, which no shape shows. `colors`: the channel order given by the user; the
    stem of a network for BGR is converted to RGB. Raises `CheckpointError` if either is unknown, and for norms and
    anchors that our models do not support.
    """
    if stride_in not in ("1x1", "3x3"):
        raise CheckpointError(f"{stored.path}: {_UNKNOWN.format(path=stored.path)}")
    order = read_colors(stored, stride_in, colors)
    result = ConvertedWeights(None, {}, None, ConfigFacts(), None)
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
    stages = sum(f"roi.box_heads.{stage}.classify.weight" in result.weights for stage in range(len(LAST_STAGE_WEIGHTS)))
    fields = {**read_anchors(stored), **read_input(stored, stride_in, order), **_settings(max(stages, 1), stride_in)}
    result.facts.fields.update(fields)
    result.notes.append(assumed(stored, max(stages, 1), fields))
    _one_mask_of_all_classes(result)
    _one_mask_head(result, stages)
    return result


def _settings(stages: int, stride_in: str) -> dict[str, Any]:
    """Return detectron2's settings, which no shape shows."""
    fields: dict[str, Any] = {
        "backbone.stride_in": stride_in,
        "backbone.norm": "frozen",
        "cascade.delta_stds": tuple(
            (1 / weight, 1 / weight, 2 / weight, 2 / weight) for weight in LAST_STAGE_WEIGHTS[:stages]
        ),
        "cascade.pooling": "align",
        "inference.score_ensemble": "probabilities",
        "inference.score_threshold": 0.05,
    }
    return fields if stages == 1 else {**fields, "inference.mask_stages": (1,)}


def _check_norms(stored: Stored, result: ConvertedWeights) -> None:
    """Raise `CheckpointError` for unsupported GroupNorm. Norms without statistics are GroupNorm, always with 32 groups
    in detectron2, but with fewer in narrow layers here.
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
                f"{stored.path}: its backbone has GroupNorm ({theirs} without running_mean), which is not supported"
            )
        channels = len(result.weights[name])
        if group_norm(channels).num_groups != _GROUPS:
            raise CheckpointError(
                f"{stored.path}: {theirs} is GroupNorm with {_GROUPS} groups over {channels} channels, which is not "
                f"supported: our models have fewer groups at this width"
            )


def _one_mask_of_all_classes(result: ConvertedWeights) -> None:
    """Repeat the row of a class-agnostic mask head for each class."""
    classes = len(result.weights.get("roi.box_heads.0.classify.bias", ())) - 1
    for leaf in ("weight", "bias"):
        name = f"roi.mask_heads.0.logits.{leaf}"
        if classes > 1 and len(result.weights.get(name, ())) == 1:
            result.change(
                name,
                f"the class-agnostic mask row repeated for each of {classes} classes",
                lambda rows: rows.repeat(classes, *[1] * (rows.dim() - 1)),
            )


def _one_mask_head(result: ConvertedWeights, stages: int) -> None:
    """Copy the only mask head of detectron2's cascade, which is for the final boxes, to every stage; prediction uses
    the first copy.
    """
    first = "roi.mask_heads.0."
    for name in [name for name in result.weights if name.startswith(first)]:
        for stage in range(1, stages):
            copy = name.replace(first, f"roi.mask_heads.{stage}.")
            result.weights[copy] = result.weights[name].clone()
            result.filled.append((copy, "a copy of the only mask head; prediction uses the first"))
