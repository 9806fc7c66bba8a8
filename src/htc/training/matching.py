"""Which object each region stands for."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

BACKGROUND, IGNORED = -1, -2


def match(ious: Float[Tensor, "M N"], positive: float, negative: float, low_quality: float | None) -> Int[Tensor, " N"]:
    """For each of N regions the index of its object among M, or BACKGROUND, or IGNORED.

    A region whose best IoU is at least `positive` serves that object; below `negative` it is background; between,
    ignored. Then, object by object in their order, if the object's best IoU is at least `low_quality` (None: off),
    every region that reaches exactly this IoU becomes the object's, even if it fits another one better: a later object
    overwrites an earlier one. Regions that take no part carry IoU -1 with every object.
    """
    objects, regions = ious.shape
    if objects == 0:
        return torch.full((regions,), BACKGROUND, device=ious.device)
    if regions == 0:
        return torch.empty(0, dtype=torch.long, device=ious.device)
    best, index = ious.max(0)
    matched = torch.full((regions,), IGNORED, device=ious.device)
    matched[(best >= 0) & (best < negative)] = BACKGROUND
    matched = torch.where(best >= positive, index, matched)
    if low_quality is not None:
        reach = ious.amax(1, keepdim=True)
        claims = (ious == reach) & (reach >= low_quality)
        last = torch.where(claims, torch.arange(objects, device=ious.device)[:, None], -1).amax(0)
        matched = torch.where(last >= 0, last, matched)
    return matched
