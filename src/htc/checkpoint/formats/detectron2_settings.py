"""What a file of detectron2 says of itself beside its weights, in our fields: colours, input, anchors; and what it
leaves to be assumed.
"""

import math
from typing import Any

import torch
from torch import Tensor

from htc.checkpoint.formats.told import Colours
from htc.checkpoint.stored import Stored
from htc.errors import CheckpointError
from htc.ops.boxes import anchors_at

CELLS = "proposal_generator.anchor_generator.cell_anchors."
PIXELS = ("pixel_mean", "pixel_std")
WEIGHTS = (10, 20, 30)
"""Of the box deltas of each stage; half as much for width and height."""
MEAN = (123.675, 116.28, 103.53)
STD = {"1x1": (1.0, 1.0, 1.0), "3x3": (58.395, 57.12, 57.375)}
"""By `backbone.stride_in`, in the order red, green, blue, as `MEAN`."""
ANCHORS = {"rpn.anchor_scale": 8.0, "rpn.anchor_ratios": (0.5, 1.0, 2.0)}
_STRIDES = (4, 8, 16, 32, 64)


def read_colours(stored: Stored, stride_in: str, told: Colours | None) -> Colours:
    """The order of the channels that the network reads.

    By the file's own mean where it has one that is no grey; else as told; else BGR for MSRA's ResNets, which come in no
    other order. Raises `CheckpointError` where what was told contradicts the mean, and where nothing tells.
    """
    mean = _pixels(stored, "pixel_mean")
    said: Colours | None = None if mean is None or mean[0] == mean[2] else "bgr" if mean[0] < mean[2] else "rgb"
    if said is not None and told is not None and said != told:
        raise CheckpointError(
            f"{stored.path}: its pixel_mean {mean} is in the order {said}, not {told}: leave --colours out"
        )
    known = said or told or ("bgr" if stride_in == "1x1" else None)
    if known is None:
        raise CheckpointError(
            f"{stored.path}: the file does not say in which order its network reads the colours, and with "
            f"backbone.stride_in 3x3 there are both: "
            "bgr in detectron2's own model zoo (X_101, X_152, syncbn), rgb where the training began with "
            "torchvision's ImageNet weights; "
            f"say it when you convert: htc convert {stored.path} DIR --backbone.stride-in 3x3 --colours bgr|rgb"
        )
    return known


def read_input(stored: Stored, stride_in: str, colours: Colours) -> dict[str, Any]:
    """Mean and deviation of the input, in the order red, green, blue: the file's own, else detectron2's for that
    ResNet.
    """
    fields = {}
    for name, field, default in zip(PIXELS, ("input.mean", "input.std"), (MEAN, STD[stride_in]), strict=True):
        values = _pixels(stored, name)
        fields[field] = default if values is None else values[::-1] if colours == "bgr" else values
    return fields


def read_anchors(stored: Stored) -> dict[str, Any]:
    """Side and ratios of the anchors: those of the cells in the file, else detectron2's default.

    Raises `CheckpointError` for anchors that have not one side in units of the stride and the same ratios on all five
    levels.
    """
    cells = {
        name.removeprefix(CELLS): tensor.float() for name, tensor in stored.tensors.items() if name.startswith(CELLS)
    }
    if not cells:
        return dict(ANCHORS)
    levels = [cells.get(str(level)) for level in range(len(_STRIDES))]
    if len(cells) == len(levels) and (found := _side_and_ratios(levels)) is not None:
        return {"rpn.anchor_scale": found[0], "rpn.anchor_ratios": found[1]}
    raise CheckpointError(
        f"{stored.path}: its anchors are not of one side in units of the stride (4, 8, 16, 32, 64) and of the same "
        f"ratios on each of five levels: not supported"
    )


def assumed(stored: Stored, stages: int, fields: dict[str, Any]) -> str:
    """Which of detectron2's defaults were taken because no file, or not this one, says otherwise: for the report."""
    weights = ", ".join(map(str, WEIGHTS[:stages]))
    parts = [f"box deltas of the weights {weights} (cascade.delta_stds)", "aligned pooling (cascade.pooling)"]
    if not any(name.startswith(CELLS) for name in stored.tensors):
        parts.append("anchors of the sides 32 to 512 and the ratios 0.5, 1, 2 (rpn.anchor_scale, rpn.anchor_ratios)")
    for name, field in zip(PIXELS, ("input.mean", "input.std"), strict=True):
        if name not in stored.tensors:
            parts.append(f"{field} {fields[field]}")
    if "pixel_std" not in stored.tensors and fields["backbone.stride_in"] == "3x3":
        # Two kinds of input share this stride, 57-fold apart.
        parts[-1] += (
            " as X_101 and torchvision's weights have it; X_152 and syncbn of its model zoo need --input.std 1,1,1"
        )
    return f"the file does not say, so detectron2's defaults were taken: {'; '.join(parts)}"


def _side_and_ratios(levels: list[Tensor | None]) -> tuple[float, tuple[float, ...]] | None:
    """Side over stride, and ratios h / w, if anchors of them lie where those of every level lie, to a tenth of a
    pixel; None else.
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
    """The three values of a buffer, in the file's order."""
    tensor = stored.tensors.get(name)
    if tensor is None:
        return None
    values = tuple(_written(value) for value in tensor.double().flatten().tolist())
    if len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise CheckpointError(f"{stored.path}: its {name} is {values[:4]}; three numbers are supported, one a channel")
    return values


def _written(value: float) -> float:
    """A number as it was written before it became a float32: 116.28, not 116.27999878."""
    return float(f"{value:.6g}")
