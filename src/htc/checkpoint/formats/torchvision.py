"""Convert state dicts of torchvision's `maskrcnn_resnet50_fpn` and its v2: names, row order and configuration."""

import re
from collections.abc import Iterable

import torch

from htc.checkpoint.formats.base import ConvertedWeights, background_last, pixel_major, rename
from htc.checkpoint.formats.mmdetection_config import ConfigFacts
from htc.checkpoint.stored import Stored
from htc.errors import CheckpointError
from htc.presets.coco import COCO_CLASSES, COCO_IDS

_RULES = (
    (r"^backbone\.body\.", "backbone."),
    (r"^backbone\.fpn\.inner_blocks\.(\d+)\.(?:0\.)?(weight|bias)$", r"neck.lateral.\1.conv.\2"),
    (r"^backbone\.fpn\.inner_blocks\.(\d+)\.1\.", r"neck.lateral.\1.norm."),
    (r"^backbone\.fpn\.layer_blocks\.(\d+)\.(?:0\.)?(weight|bias)$", r"neck.output.\1.conv.\2"),
    (r"^backbone\.fpn\.layer_blocks\.(\d+)\.1\.", r"neck.output.\1.norm."),
    (r"^rpn\.head\.conv\.(?:0\.0\.)?(weight|bias)$", r"rpn.conv.\1"),
    (r"^rpn\.head\.conv\.1\.0\.", "rpn.further.0."),
    (r"^rpn\.head\.cls_logits\.", "rpn.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "rpn.deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "roi.box_heads.0.fc.0."),
    (r"^roi_heads\.box_head\.fc7\.", "roi.box_heads.0.fc.1."),
    (r"^roi_heads\.box_head\.(\d+)\.0\.", r"roi.box_heads.0.convs.\1.conv."),
    (r"^roi_heads\.box_head\.(\d+)\.1\.", r"roi.box_heads.0.convs.\1.norm."),
    (r"^roi_heads\.box_head\.\d+\.(weight|bias)$", r"roi.box_heads.0.fc.0.\1"),
    (r"^roi_heads\.box_predictor\.cls_score\.", "roi.box_heads.0.classify."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi.box_heads.0.regress."),
    (r"^roi_heads\.mask_head\.(\d+)\.0\.", r"roi.mask_heads.0.convs.\1.conv."),
    (r"^roi_heads\.mask_head\.(\d+)\.1\.", r"roi.mask_heads.0.convs.\1.norm."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "roi.mask_heads.0.upsample."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "roi.mask_heads.0.logits."),
)
_OLD_MASK = re.compile(r"^roi_heads\.mask_head\.mask_fcn(\d+)\.")
"""Before 2021, the layers of the mask head were numbered from one."""

SETTINGS = {
    "rpn.anchor_grid": "torchvision",
    "rpn.box_loss": "smooth_l1",
    "cascade.pooling": "torchvision",
    "cascade.delta_stds": ((0.1, 0.1, 0.2, 0.2),),
    "cascade.low_quality_matches": False,
    "cascade.box_loss": "smooth_l1",
    "inference.score_threshold": 0.05,
}
"""Settings of both versions in torchvision, which no shape shows."""
EPSILON = 1e-5
"""Epsilon of our norms."""
COCO_OUTPUTS = 90
"""COCO's category ids go up to 90 with ten gaps; torchvision's models have an output for each number."""


def is_torchvision(names: Iterable[str]) -> bool:
    """Return whether a state dict has the names of torchvision's detectors."""
    return any(name.startswith("rpn.head.") for name in names)


def read_torchvision(stored: Stored, norm_epsilon: float | None = None) -> ConvertedWeights:
    """Convert a state dict of torchvision. Its background rows are first; they are moved to the end for classes and
    dropped for boxes and masks.

    `norm_epsilon`: epsilon of the frozen norms, given by the user, 0 or 1e-5. Raises `CheckpointError` if it is given
    and the file has no frozen norms.
    """
    result = ConvertedWeights(None, {}, None, ConfigFacts(dict(SETTINGS)), None)
    for theirs, tensor in stored.tensors.items():
        plain = _OLD_MASK.sub(lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0.", theirs)
        result.put(stored.path, theirs, rename(plain, _RULES), tensor)
    for leaf in ("weight", "bias"):
        result.change(f"roi.box_heads.0.classify.{leaf}", "background row moved from first to last", background_last)
        result.change(
            f"roi.box_heads.0.regress.{leaf}", "the background's four unused rows dropped", lambda tensor: tensor[4:]
        )
        result.change(
            f"roi.mask_heads.0.logits.{leaf}", "the background's unused first row dropped", lambda tensor: tensor[1:]
        )
    pixel_major(result)
    if "backbone.bn1.num_batches_tracked" not in result.weights:
        _frozen_norms(stored, result, norm_epsilon)
    elif norm_epsilon is not None:
        raise CheckpointError(
            f"{stored.path}: its norms are not frozen (they have batch counters), so their epsilon is 1e-5: remove "
            f"--norm-epsilon"
        )
    classes = result.weights.get("roi.box_heads.0.classify.bias")
    if classes is not None and len(classes) == COCO_OUTPUTS + 1:
        result.classes = _coco_names()
    return result


def _frozen_norms(stored: Stored, result: ConvertedWeights, given: float | None) -> None:
    """Handle frozen norms, which have no batch counter. Their epsilon is 0 in torchvision's released ResNet-50 and in
    models fine-tuned from it, else 1e-5.
    """
    result.facts.fields["backbone.norm"] = "frozen"
    released = _is_resnet50(result)
    if given is None and released:
        result.notes.append(
            "its frozen norms are assumed to have epsilon 0, as in torchvision's released ResNet-50 for COCO and in "
            "models fine-tuned from it; if this model was trained from ImageNet weights only, convert it again: htc "
            f"convert {stored.path} DIR --norm-epsilon 1e-5"
        )
    if given == 0 or (given is None and released):
        _without_epsilon(result)


def _without_epsilon(result: ConvertedWeights) -> None:
    """Convert norms without epsilon: the scale compensates for the epsilon of our norms."""
    for name in [name for name in result.weights if name.startswith("backbone.") and name.endswith(".running_var")]:
        variance = result.weights[name].clamp(min=torch.finfo(torch.float32).tiny)
        factor = (1 + EPSILON / variance).sqrt()
        result.change(
            name.replace("running_var", "weight"),
            "scaled, since torchvision's frozen norms have no epsilon",
            lambda w, factor=factor: w * factor,
        )


def _is_resnet50(result: ConvertedWeights) -> bool:
    """Return whether the backbone is a ResNet-50, the only one that torchvision has released with frozen norms."""
    widths = result.weights.get("backbone.layer1.0.conv2.weight")
    blocks = [f"backbone.layer3.{block}.conv3.weight" in result.weights for block in (5, 6)]
    return widths is not None and tuple(widths.shape[:2]) == (64, 64) and blocks == [True, False]


def _coco_names() -> tuple[str, ...]:
    names = dict(zip(COCO_IDS, COCO_CLASSES, strict=True))
    return tuple(names.get(number, f"N/A {number}") for number in range(1, COCO_OUTPUTS + 1))
