"""detectron2's Mask R-CNN and Cascade Mask R-CNN with a ResNet-FPN, onto our names, colours and configuration."""

from collections.abc import Iterable
from typing import Any

import torch

from htc.checkpoint.config_facts import ConfigFacts
from htc.checkpoint.renaming import rename
from htc.checkpoint.stored import Stored
from htc.checkpoint.upgraded import Upgraded, pixel_major, rgb_stem
from htc.errors import CheckpointError
from htc.ops.boxes import anchors_at

_RULES = (
    (r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.bn1."),
    (r"^backbone\.bottom_up\.stem\.conv1\.", "backbone.conv1."),
    *((rf"^backbone\.bottom_up\.res{n}\.(\d+)\.conv(\d)\.norm\.", rf"backbone.layer{n - 1}.\1.bn\2.") for n in (2, 3, 4, 5)),
    *((rf"^backbone\.bottom_up\.res{n}\.(\d+)\.shortcut\.norm\.", rf"backbone.layer{n - 1}.\1.downsample.1.") for n in (2, 3, 4, 5)),
    *((rf"^backbone\.bottom_up\.res{n}\.(\d+)\.shortcut\.", rf"backbone.layer{n - 1}.\1.downsample.0.") for n in (2, 3, 4, 5)),
    *((rf"^backbone\.bottom_up\.res{n}\.", f"backbone.layer{n - 1}.") for n in (2, 3, 4, 5)),
    *((rf"^backbone\.fpn_lateral{n}\.(weight|bias)", rf"neck.lateral.{n - 2}.conv.\1") for n in (2, 3, 4, 5)),
    *((rf"^backbone\.fpn_output{n}\.(weight|bias)", rf"neck.output.{n - 2}.conv.\1") for n in (2, 3, 4, 5)),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.conv."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.objectness."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas."),
    *((rf"^roi_heads\.box_head\.(\d)\.fc{n}\.", rf"roi.box_heads.\1.fc.{n - 1}.") for n in (1, 2)),
    *((rf"^roi_heads\.box_head\.fc{n}\.", f"roi.box_heads.0.fc.{n - 1}.") for n in (1, 2)),
    (r"^roi_heads\.box_predictor\.(\d)\.cls_score\.", r"roi.box_heads.\1.classify."),
    (r"^roi_heads\.box_predictor\.(\d)\.bbox_pred\.", r"roi.box_heads.\1.regress."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "roi.box_heads.0.classify."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "roi.box_heads.0.regress."),
    *((rf"^roi_heads\.mask_head\.mask_fcn{n}\.(weight|bias)", rf"roi.mask_heads.0.convs.{n - 1}.conv.\1") for n in range(1, 9)),
    (r"^roi_heads\.mask_head\.deconv\.", "roi.mask_heads.0.upsample."),
    (r"^roi_heads\.mask_head\.predictor\.", "roi.mask_heads.0.logits."),
)
_CELLS = "proposal_generator.anchor_generator.cell_anchors."
_PIXELS = ("pixel_mean", "pixel_std")
WEIGHTS = (10, 20, 30)
"""Of the box deltas of each stage; half as much for width and height."""
BGR = {"input.mean": (123.675, 116.28, 103.53), "input.std": (1.0, 1.0, 1.0)}
"""Of the caffe style, in the order red, green, blue."""
_UNKNOWN = (
    "the file does not say how its ResNet was built: set backbone.stride_in to 1x1 (detectron2's own ImageNet weights, MSRA's: stride in the "
    "1x1 convolution, BGR input; most of its model zoo) or to 3x3 (torchvision's ImageNet weights, RGB input)"
)


def is_detectron2(names: Iterable[str]) -> bool:
    """Whether a state dict has the names of detectron2's two-stage detectors."""
    return any(name.startswith("proposal_generator.rpn_head.") for name in names)


def read_detectron2(stored: Stored, stride_in: str | None) -> Upgraded:
    """Its weights under our names.

    `stride_in`: the field of our `ResNet`, which no shape shows; with 1x1 goes BGR input, whose stem becomes one for RGB. Raises
    `CheckpointError` without it, and for anchors or input that contradict the configuration.
    """
    if stride_in not in ("1x1", "3x3"):
        raise CheckpointError(f"{stored.path}: {_UNKNOWN}")
    result = Upgraded(None, {}, None, ConfigFacts(), None)
    for theirs, tensor in stored.tensors.items():
        if theirs.startswith(_CELLS) or theirs in _PIXELS:
            result.dropped.append((theirs, "configuration, not weights"))
        else:
            result.put(stored.path, theirs, rename(theirs, _RULES), tensor)
    _check_anchors(stored)
    _check_input(stored, stride_in)
    if stride_in == "1x1":
        rgb_stem(result)
    pixel_major(result)
    stages = sum(f"roi.box_heads.{stage}.classify.weight" in result.weights for stage in range(len(WEIGHTS)))
    result.facts.fields.update(_meaning(max(stages, 1), stride_in))
    _one_mask_head(result, stages)
    return result


def _meaning(stages: int, stride_in: str) -> dict[str, Any]:
    """What no shape shows: detectron2's own settings."""
    fields: dict[str, Any] = {
        "backbone.stride_in": stride_in,
        "backbone.norm": "frozen",
        "cascade.delta_stds": tuple((1 / weight, 1 / weight, 2 / weight, 2 / weight) for weight in WEIGHTS[:stages]),
        "inference.score_ensemble": "probabilities",
        "inference.score_threshold": 0.05,
        **(BGR if stride_in == "1x1" else {}),
    }
    return fields if stages == 1 else {**fields, "inference.mask_stages": (1,)}


def _one_mask_head(result: Upgraded, stages: int) -> None:
    """detectron2's cascade has one mask head, on the final boxes; ours has one a stage: copies, of which the first alone is used."""
    first = "roi.mask_heads.0."
    for name in [name for name in result.weights if name.startswith(first)]:
        for stage in range(1, stages):
            copy = name.replace(first, f"roi.mask_heads.{stage}.")
            result.weights[copy] = result.weights[name].clone()
            result.filled.append((copy, "a copy of the one mask head there is; prediction uses the first"))


def _check_anchors(stored: Stored) -> None:
    """Ours are the default's: sides 32 to 512, ratios 0.5, 1, 2, at the cells' corners."""
    for level in range(5):
        cells = stored.tensors.get(f"{_CELLS}{level}")
        if cells is None:
            continue
        ours = anchors_at(torch.arange(3), 1, 4 * 2**level, 8.0, (0.5, 1.0, 2.0)) if cells.shape == (3, 4) else None
        if ours is None or not torch.allclose(cells.float(), ours, atol=0.1):
            raise CheckpointError(f"{stored.path}: its anchors are not of one side (32 to 512) and the ratios 0.5, 1, 2: not supported")


def _check_input(stored: Stored, stride_in: str) -> None:
    mean = stored.tensors.get("pixel_mean")
    if mean is not None and mean.numel() == 3 and (float(mean.flatten()[0]) < float(mean.flatten()[2])) != (stride_in == "1x1"):
        order = "BGR" if stride_in == "3x3" else "RGB"
        raise CheckpointError(f"{stored.path}: its pixel_mean is {order}'s, which does not go with backbone.stride_in {stride_in}: not supported")
