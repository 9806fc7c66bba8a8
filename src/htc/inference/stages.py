"""Predict with single mask stages and with averages of several stages (paper, Table 4), in one forward pass."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import torch

from htc.config import NoMask
from htc.data.transforms import NetworkInput
from htc.errors import ConfigError
from htc.inference.predictor import ImagePredictor, Predictor, original_pixels
from htc.model.detector import Detector
from htc.ops.onednn import exact_onednn_matmul
from htc.results import Detections
from htc.types import RawDetections

StageSubset = tuple[int, ...]
"""Mask stages, from 1, whose probabilities are averaged."""


def mask_stages_of(predictor: ImagePredictor[Any]) -> StageSubset:
    """Return the mask stages that the model's configuration uses."""
    return predictor.config.inference.mask_stages or tuple(range(1, predictor.config.cascade.num_stages + 1))


def check_subsets(predictor: ImagePredictor[Any], subsets: Collection[StageSubset]) -> None:
    """Raise `ConfigError` for a subset that is empty, repeats a stage or names one that the model does not have."""
    if isinstance(predictor.config.cascade.mask_head, NoMask):
        raise ConfigError("this model predicts boxes only (cascade.mask_head none): it has no mask stages")
    last = predictor.config.cascade.num_stages
    for subset in subsets:
        if not subset or len(set(subset)) < len(subset) or not all(1 <= stage <= last for stage in subset):
            raise ConfigError(
                f"stages {'-'.join(map(str, subset)) or '(none)'}: name each stage once, from 1 to {last} (the stages "
                f"of this model)"
            )


@torch.inference_mode()
def detect_stages(
    predictor: ImagePredictor[Any],
    prepared: NetworkInput,
    original_sizes: Sequence[tuple[int, int]],
    subsets: Collection[StageSubset],
) -> dict[StageSubset, list[Detections]]:
    """Predict prepared images for each subset, with masks that are the mean over the stages of the subset.

    Boxes, scores and order are the same for all subsets, as configured. Trunk, box cascade and every mask head run
    once. Raises `ConfigError` for stages that the model does not have, and for a network without stages.
    """
    check_subsets(predictor, subsets)
    if not isinstance(predictor, Predictor):
        raise ConfigError(f"a {type(predictor).__name__} has no stages: use a model of htc.load")
    detector = predictor.detector
    if not isinstance(detector, Detector):
        raise ConfigError(f"a {type(detector).__name__} has no stages: use a model of htc.load")
    images = prepared.images.to(predictor.device).contiguous(memory_format=torch.channels_last)
    sizes = prepared.sizes.to(predictor.device)
    used = tuple(sorted({stage for subset in subsets for stage in subset}))
    with exact_onednn_matmul():
        features = detector.features(images)
        selected = detector.select(detector.refine(features, detector.propose(features, sizes)[0]))
        each = detector.segment_stages(features, selected.rois, selected.labels, used)
    raw = RawDetections(selected.rois.boxes, selected.scores, selected.labels, selected.rois.valid, each[0])
    of_subsets = {}
    for subset in subsets:
        chosen = replace(raw, masks=each[[used.index(stage) for stage in subset]].mean(0))
        rows = enumerate(zip(sizes.tolist(), original_sizes, strict=True))
        of_subsets[subset] = [
            original_pixels(chosen, row, (height, width), original, predictor.config)
            for row, ((height, width), original) in rows
        ]
    return of_subsets
