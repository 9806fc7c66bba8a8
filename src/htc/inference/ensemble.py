"""Test-time augmentation and ensembles: several views and several models as one predictor (paper, Table 7).

In each view, the proposals of the models are fused, and every model refines and scores all of them; scores and boxes of
a proposal are averaged over the models. The boxes of all views, in original pixels, are the candidates of one `select`.
Then every model segments the selected boxes in every view, and the mask probabilities are averaged on the grid of each
box, before any threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int, UInt8
from torch import Tensor, nn

from htc.config import Config
from htc.data.transforms import OriginalPixels, Placement, pad_images, place_image
from htc.errors import ConfigError
from htc.inference.augmentation import boxes_in_original, boxes_in_view, masks_in_original
from htc.inference.predictor import NO_SEMANTIC_BRANCH, ImagePredictor, Predictor, original_pixels
from htc.inference.views import SINGLE_VIEW, View
from htc.model.detector import Detector
from htc.model.postprocess import NO_LIMITS, Limits, Selected, class_scores, final_boxes, select
from htc.ops.boxes import iou
from htc.ops.onednn import exact_onednn_matmul
from htc.results import Detections
from htc.types import Features, RawDetections, Rois

PAPER_ENSEMBLE = (
    "htc_senet154_table7",
    "htc_x101_64x4d_table7",
    "htc_x101_32x8d_table7",
    "htc_dpn107_table7",
    "htc_fishnet150_table7",
)
"""The presets of the paper's five networks (together 49.0 mask AP on test-dev, with guided anchoring and multi-scale
testing).
"""


@dataclass(frozen=True)
class Proposed:
    """Proposals of one image in original pixels, by descending objectness."""

    boxes: Float64[Tensor, "R 4"]
    objectness: Float[Tensor, " R"]
    valid: Bool[Tensor, " R"]


@dataclass(frozen=True)
class ViewedImage:
    """One view of an image with the features of one detector."""

    detector: Detector
    own_labels: Int[Tensor, " K"]
    """The detector's label for each of the ensemble's classes."""
    placement: Placement
    features: Features
    sizes: Int[Tensor, "1 2"]

    def propose(self) -> Proposed:
        """Return the proposals of this detector."""
        rois, objectness = self.detector.propose(self.features, self.sizes)
        return Proposed(boxes_in_original(rois.boxes[0], self.placement), objectness[0], rois.valid[0])

    def refine(self, proposals: Proposed) -> tuple[Float[Tensor, "R K"], Float64[Tensor, "R K 4"]]:
        """Return the score and box of every proposal for every class."""
        detector, inference = self.detector, self.detector.config.inference
        stages = detector.refine(self.features, self._rois(proposals.boxes, proposals.valid))
        scores = class_scores(stages, inference)[0][:, self.own_labels]
        boxes = boxes_in_original(final_boxes(detector.roi, stages, inference)[0], self.placement)
        return scores, boxes.expand(-1, len(self.own_labels), -1) if boxes.shape[1] == 1 else boxes[:, self.own_labels]

    def segment(self, selected: Selected) -> Float[Tensor, "1 D h w"]:
        """Return the mask probabilities of the selected boxes."""
        rois = replace(self._rois(selected.rois.boxes[0], selected.rois.valid[0]), packed=selected.rois.packed)
        return masks_in_original(
            self.detector.segment(self.features, rois, self.own_labels[selected.labels]), self.placement
        )

    def _rois(self, boxes: Tensor, valid: Tensor) -> Rois:
        inside = torch.where(valid[:, None], boxes_in_view(boxes, self.placement), 0.0)
        return Rois(inside[None], valid[None], self.sizes)


@final
class EnsemblePredictor(ImagePredictor[tuple[UInt8[np.ndarray, "_ _ 3"], ...]]):
    """Predictor that combines several models with the same class names, in any order, and several views of each image.

    Labels, thresholds, NMS and the maximum number of detections are those of the first model. The features of every
    model and view are kept in memory until the masks of the image are computed. Raises `ConfigError` for models with
    different classes or without stages, and for models on a device without float64 (Apple's MPS).
    """

    def __init__(self, predictors: Sequence[Predictor], views: Sequence[View] = SINGLE_VIEW) -> None:
        if not predictors or not views:
            raise ConfigError("an ensemble needs at least one model, and one view of the image")
        self.detectors = tuple(_member(predictor) for predictor in predictors)
        self.views = tuple(views)
        super().__init__(nn.ModuleList(self.detectors), predictors[0].config)
        self.own_labels = [own_labels(self.config, detector.config) for detector in self.detectors]

    def preparation(self, short_edge: int | None = None, long_edge: int | None = None) -> OriginalPixels:
        """See `ImagePredictor`; the input sizes are those of the views."""
        if short_edge is not None or long_edge is not None:
            raise ConfigError(
                "short_edge and long_edge are for one view of one model: set the sizes in the views, as in "
                "View(scale=(600, 900))"
            )
        return OriginalPixels()

    @torch.inference_mode()
    def detect(
        self,
        prepared: tuple[UInt8[np.ndarray, "_ _ 3"], ...],
        original_sizes: Sequence[tuple[int, int]],
        sources: Sequence[str | None] | None = None,
        *,
        limits: Limits = NO_LIMITS,
        semantic: bool = False,
    ) -> list[Detections]:
        """See `ImagePredictor`; images are processed one by one."""
        if semantic:
            raise ConfigError(NO_SEMANTIC_BRANCH)
        names = sources or [None] * len(original_sizes)
        with exact_onednn_matmul():
            return [
                original_pixels(self._detect(pixels, limits), 0, size, size, self.config, name)
                for pixels, size, name in zip(prepared, original_sizes, names, strict=True)
            ]

    def _detect(self, pixels: UInt8[np.ndarray, "H W 3"], limits: Limits) -> RawDetections:
        """Predict one image, in original pixels."""
        views = [self._viewed(pixels, view) for view in self.views]
        candidates = [self._candidates(viewed) for viewed in views]
        scores, boxes, valid = (torch.cat(parts)[None] for parts in zip(*candidates, strict=True))
        sizes = torch.tensor([pixels.shape[:2]], device=self.device)
        selected = select(scores, boxes, valid, sizes, self.config.inference, limits)
        masks = mean_of_grids([viewed.segment(selected) for view in views for viewed in view])
        return RawDetections(selected.rois.boxes, selected.scores, selected.labels, selected.rois.valid, masks)

    def _viewed(self, pixels: UInt8[np.ndarray, "H W 3"], view: View) -> list[ViewedImage]:
        """Compute the features of each detector in one view of the image."""
        viewed, device = [], self.device
        for detector, labels in zip(self.detectors, self.own_labels, strict=True):
            settings = detector.config.input
            placement = view.placement(pixels.shape[:2], settings)
            images = (
                pad_images([place_image(pixels, placement)], settings)
                .to(device)
                .contiguous(memory_format=torch.channels_last)
            )
            sizes = torch.tensor([placement.resized], device=device)
            viewed.append(ViewedImage(detector, labels.to(device), placement, detector.features(images), sizes))
        return viewed

    def _candidates(
        self, viewed: list[ViewedImage]
    ) -> tuple[Float[Tensor, "R K"], Float64[Tensor, "R K 4"], Bool[Tensor, " R"]]:
        """Return scores and boxes (means over the detectors) and validity of the proposals of one view."""
        proposals = fuse_proposals([one.propose() for one in viewed], self.config.rpn.nms_iou)
        scores, boxes = (
            torch.stack(parts).mean(0) for parts in zip(*(one.refine(proposals) for one in viewed), strict=True)
        )
        return scores, boxes, proposals.valid


def _member(predictor: Predictor) -> Detector:
    """Return the predictor's detector; raises `ConfigError` if it cannot be part of an ensemble."""
    detector = predictor.detector
    if not isinstance(detector, Detector):
        raise ConfigError(
            f"a {type(detector).__name__} cannot be part of an ensemble or get views, since its steps cannot be called "
            f"one by one, as those of an exported file: use the model it was made from"
        )
    if predictor.device.type == "mps":
        raise ConfigError("views and ensembles need float64, which Apple's GPUs do not support: use --device cpu")
    return detector


def own_labels(first: Config, other: Config) -> Int[Tensor, " K"]:
    """Return the label in `other` of each class of `first`; raises `ConfigError` for models with different classes."""
    missing, more = (
        [name for name in one.classes if name not in two.classes] for one, two in ((first, other), (other, first))
    )
    if missing or more:
        what = " and ".join(
            f"{kind} {', '.join(map(repr, names[:5]))}"
            for kind, names in (("missing", missing), ("additional", more))
            if names
        )
        raise ConfigError(
            f"the models of an ensemble need the same classes, in any order; in {other.preset or 'one model'}: {what}"
        )
    return torch.tensor([other.classes.index(name) for name in first.classes])


def mean_of_grids(grids: Sequence[Float[Tensor, "1 D _ _"]]) -> Float[Tensor, "1 D S S"]:
    """Average mask probabilities on the finest grid among them; empty grids, of models without masks, are skipped."""
    finest = max(grid.shape[-1] for grid in grids)
    if finest == 0:
        return grids[0]
    used = [grid for grid in grids if grid.shape[-1]]
    return torch.stack(
        [grid if grid.shape[-1] == finest else F.interpolate(grid, (finest, finest), mode="bilinear") for grid in used]
    ).mean(0)


def fuse_proposals(members: Sequence[Proposed], threshold: float) -> Proposed:
    """Fuse the proposals of several detectors, up to the largest number that one of them has.

    Greedy NMS by objectness, but only between detectors: each has already applied NMS to its own proposals, level by
    level. Copies of one detector therefore leave its proposals unchanged.
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
    # A proposal is kept if no kept one of higher objectness suppresses it: this has a unique solution, and each round
    # decides at least one more rank.
    kept, before = valid, torch.zeros_like(valid)
    while not torch.equal(kept, before):
        kept, before = valid & ~(suppresses & kept[:, None]).any(0), kept
    best = kept.long().argsort(descending=True, stable=True)[: max(len(one.valid) for one in members)]
    return Proposed(boxes[best], objectness[best], kept[best])
