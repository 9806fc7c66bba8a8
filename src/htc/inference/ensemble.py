"""Several views of a picture and several trained models as one detector (paper, Table 7: multi-scale test and
ensemble).

In each view the models' proposals are fused, and every model refines and scores all of them; scores and boxes of a
region are averaged over the models. The regions of all views, in original pixels, are candidates of one `select`. Then
every model segments the selected boxes in every view, and the probabilities are averaged in the box's own grid: nothing
is averaged after a threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int, UInt8
from torch import Tensor, nn

from htc.config import Config, Input
from htc.data.transforms import Placement, pad_pictures, place_picture
from htc.errors import ConfigError
from htc.inference.augmentation import SINGLE_VIEW, View, boxes_in_original, boxes_in_view, masks_in_original
from htc.inference.predictor import Predictor
from htc.model.detector import Detector
from htc.model.postprocess import Selected, class_scores, final_boxes, select
from htc.ops.boxes import iou
from htc.types import Features, RawDetections, Rois

PAPER_ENSEMBLE = (
    "htc_senet154_table7",
    "htc_x101_64x4d_table7",
    "htc_x101_32x8d_table7",
    "htc_dpn107_table7",
    "htc_fishnet150_table7",
)
"""The presets of the paper's five networks (49.0 mask AP on test-dev with guided anchoring and its multi-scale
test).
"""
AS_IT_IS = Input(
    short_edge=1 << 30, long_edge=1 << 30, max_scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), divisor=1
)
"""The picture's own pixels: each model then resizes and normalises them as it was trained."""


@dataclass(frozen=True)
class Proposed:
    """Regions of one picture in original pixels, best first."""

    boxes: Float64[Tensor, "R 4"]
    objectness: Float[Tensor, " R"]
    valid: Bool[Tensor, " R"]


@dataclass(frozen=True)
class Look:
    """One picture as one detector sees it in one view."""

    detector: Detector
    own_labels: Int[Tensor, " K"]
    """The detector's label of each of the ensemble's classes."""
    placement: Placement
    features: Features
    sizes: Int[Tensor, "1 2"]

    def propose(self) -> Proposed:
        """The detector's own proposals."""
        rois, objectness = self.detector.propose(self.features, self.sizes)
        return Proposed(boxes_in_original(rois.boxes[0], self.placement), objectness[0], rois.valid[0])

    def refine(self, regions: Proposed) -> tuple[Float[Tensor, "R K"], Float64[Tensor, "R K 4"]]:
        """Score and box of every region for every class."""
        detector, inference = self.detector, self.detector.config.inference
        stages = detector.refine(self.features, self._rois(regions.boxes, regions.valid))
        scores = class_scores(stages, inference)[0][:, self.own_labels]
        boxes = boxes_in_original(final_boxes(detector.roi, stages, inference)[0], self.placement)
        return scores, boxes.expand(-1, len(self.own_labels), -1) if boxes.shape[1] == 1 else boxes[:, self.own_labels]

    def segment(self, selected: Selected) -> Float[Tensor, "1 D h w"]:
        """Mask probabilities of boxes from anywhere."""
        rois = self._rois(selected.rois.boxes[0], selected.rois.valid[0])
        return masks_in_original(
            self.detector.segment(self.features, rois, self.own_labels[selected.labels]), self.placement
        )

    def _rois(self, boxes: Tensor, valid: Tensor) -> Rois:
        inside = torch.where(valid[:, None], boxes_in_view(boxes, self.placement), 0.0)
        return Rois(inside[None], valid[None], self.sizes)


class JointDetector(nn.Module):
    """Detectors of the same classes, by name, in any order, and the views in which each sees a picture.

    Labels, thresholds, suppression and numbers of detections are those of the first detector's configuration.
    """

    def __init__(self, detectors: Sequence[Detector], views: Sequence[View] = SINGLE_VIEW) -> None:
        super().__init__()
        self.detectors: Sequence[Detector] = nn.ModuleList(detectors)  # type: ignore[assignment]
        self.views = tuple(views)
        self.config = detectors[0].config
        self.own_labels = [own_labels(self.config, detector.config) for detector in detectors]

    def forward(self, images: Float[Tensor, "B 3 H W"], sizes: Int[Tensor, "B 2"]) -> RawDetections:
        """Padded pictures with values 0..255 and their own (height, width) -> detections in pixels of these
        pictures.
        """
        found = [
            self._detect(image[:, :height, :width], size)
            for image, size, (height, width) in zip(images, sizes, sizes.tolist(), strict=True)
        ]
        parts = zip(*((one.boxes, one.scores, one.labels, one.valid, one.masks) for one in found), strict=True)
        return RawDetections(*(torch.cat(part) for part in parts))

    def _detect(self, image: Float[Tensor, "3 H W"], size: Int[Tensor, " 2"]) -> RawDetections:
        pixels = image.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
        views = [self._look(pixels, view, image.device) for view in self.views]
        candidates = [self._candidates(looks) for looks in views]
        scores, boxes, valid = (torch.cat(parts)[None] for parts in zip(*candidates, strict=True))
        selected = select(scores, boxes, valid, size[None], self.config.inference)
        masks = mean_of_grids([look.segment(selected) for looks in views for look in looks])
        return RawDetections(selected.rois.boxes, selected.scores, selected.labels, selected.rois.valid, masks)

    def _look(self, pixels: UInt8[np.ndarray, "H W 3"], view: View, device: torch.device) -> list[Look]:
        """The picture in one view, as each detector sees it."""
        looks = []
        for detector, labels in zip(self.detectors, self.own_labels, strict=True):
            settings = detector.config.input
            placement = view.placement(pixels.shape[:2], settings)
            images = (
                pad_pictures([place_picture(pixels, placement)], settings)
                .to(device)
                .contiguous(memory_format=torch.channels_last)
            )
            sizes = torch.tensor([placement.resized], device=device)
            looks.append(Look(detector, labels.to(device), placement, detector.features(images), sizes))
        return looks

    def _candidates(
        self, looks: list[Look]
    ) -> tuple[Float[Tensor, "R K"], Float64[Tensor, "R K 4"], Bool[Tensor, " R"]]:
        """What the detectors say together of one view: scores, boxes and validity of the regions."""
        regions = fuse_proposals([look.propose() for look in looks], self.config.rpn.nms_iou)
        scores, boxes = (
            torch.stack(parts).mean(0) for parts in zip(*(look.refine(regions) for look in looks), strict=True)
        )
        return scores, boxes, regions.valid


def own_labels(first: Config, other: Config) -> Int[Tensor, " K"]:
    """The label that `other` has for each class of `first`; raises `ConfigError` for models of different classes."""
    missing, more = (
        [name for name in one.classes if name not in two.classes] for one, two in ((first, other), (other, first))
    )
    if missing or more:
        what = " and ".join(
            f"{verb} {', '.join(map(repr, names[:5]))}" for verb, names in (("lacks", missing), ("adds", more)) if names
        )
        raise ConfigError(
            f"the models of an ensemble need the same classes, in any order: one ({other.preset or 'no preset'}) {what}"
        )
    return torch.tensor([other.classes.index(name) for name in first.classes])


def mean_of_grids(grids: Sequence[Float[Tensor, "1 D _ _"]]) -> Float[Tensor, "1 D S S"]:
    """The mean of probabilities on the finest grid among them; models of boxes alone, whose grids have no cells,
    have no say.
    """
    finest = max(grid.shape[-1] for grid in grids)
    if finest == 0:
        return grids[0]
    said = [grid for grid in grids if grid.shape[-1]]
    return torch.stack(
        [grid if grid.shape[-1] == finest else F.interpolate(grid, (finest, finest), mode="bilinear") for grid in said]
    ).mean(0)


def fuse_proposals(members: Sequence[Proposed], threshold: float) -> Proposed:
    """The best regions of several detectors, as many as the one with the most has.

    Greedy suppression by objectness, but only between detectors: each has thinned its own proposals already, level by
    level, and what it left there stays. So copies of one detector leave its proposals as they are.
    """
    if len(members) == 1:
        return members[0]
    boxes, objectness, valid = (
        torch.cat(parts) for parts in zip(*((one.boxes, one.objectness, one.valid) for one in members), strict=True)
    )
    source = torch.cat([torch.full_like(one.valid, number, dtype=torch.long) for number, one in enumerate(members)])
    order = objectness.masked_fill(~valid, float("-inf")).argsort(descending=True, stable=True)
    boxes, objectness, valid, source = boxes[order], objectness[order], valid[order], source[order]
    suppresses = ((iou(boxes.float(), boxes.float()) > threshold) & (source[:, None] != source)).triu(1)
    # A region stays if no better one that stays suppresses it: this has one solution, and each round settles at least
    # one more rank.
    kept, before = valid, torch.zeros_like(valid)
    while not torch.equal(kept, before):
        kept, before = valid & ~(suppresses & kept[:, None]).any(0), kept
    best = kept.long().argsort(descending=True, stable=True)[: max(len(one.valid) for one in members)]
    return Proposed(boxes[best], objectness[best], kept[best])


def join(predictors: Sequence[Predictor], views: Sequence[View] = SINGLE_VIEW) -> Predictor:
    """One predictor that looks at pictures with all these models in all these views; used like any other.

    It keeps the trunk's features of every model and view of a picture until its masks are done. Raises `ConfigError`
    for models of different classes or without stages, or that lie on a device without float64 (Apple's).
    """
    if not predictors or not views:
        raise ConfigError("an ensemble needs at least one model, and one view of the picture")
    detectors = []
    for predictor in predictors:
        if not isinstance(predictor.detector, Detector):
            raise ConfigError(
                f"a {type(predictor.detector).__name__} cannot be part of an ensemble: give models of htc.load"
            )
        if next(predictor.detector.parameters()).device.type == "mps":
            raise ConfigError("views and ensembles compute in float64, which Apple's GPUs lack: use --device cpu")
        detectors.append(predictor.detector)
    first = predictors[0].config
    return Predictor(JointDetector(detectors, views), first.replace(input=AS_IT_IS))
