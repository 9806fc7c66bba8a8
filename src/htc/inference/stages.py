"""What single mask stages and subsets of them say about the same boxes (paper, Table 4), in one pass over the
network.
"""

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
    """The subset that the model's own configuration takes."""
    return predictor.config.inference.mask_stages or tuple(range(1, predictor.config.cascade.num_stages + 1))


def check_subsets(predictor: ImagePredictor[Any], subsets: Collection[StageSubset]) -> None:
    """Raises `ConfigError` for a subset that is empty, repeats a stage or names one the model does not have."""
    if isinstance(predictor.config.cascade.mask_head, NoMask):
        raise ConfigError("this model finds boxes alone (cascade.mask_head none): it has no mask stages to look at")
    last = predictor.config.cascade.num_stages
    for subset in subsets:
        if not subset or len(set(subset)) < len(subset) or not all(1 <= stage <= last for stage in subset):
            raise ConfigError(
                f"stages {'-'.join(map(str, subset)) or '(none)'}: name each stage once, from 1 to {last}, which is "
                f"all this model has"
            )


@torch.inference_mode()
def detect_stages(
    predictor: ImagePredictor[Any],
    prepared: NetworkInput,
    original_sizes: Sequence[tuple[int, int]],
    subsets: Collection[StageSubset],
) -> dict[StageSubset, list[Detections]]:
    """For each subset, the detections of prepared images whose masks are the mean over its stages alone.

    Boxes, scores and order are the same in all subsets: those of the model's configuration. Trunk, box cascade and
    every mask head run once. Raises `ConfigError` for subsets the model does not have, or a network without stages.
    """
    check_subsets(predictor, subsets)
    if not isinstance(predictor, Predictor):
        raise ConfigError(f"a {type(predictor).__name__} has no stages to look at: give a model of htc.load")
    detector = predictor.detector
    if not isinstance(detector, Detector):
        raise ConfigError(f"a {type(detector).__name__} has no stages to look at: give a model of htc.load")
    images = prepared.images.to(predictor.device).contiguous(memory_format=torch.channels_last)
    sizes = prepared.sizes.to(predictor.device)
    used = tuple(sorted({stage for subset in subsets for stage in subset}))
    with exact_onednn_matmul():
        features = detector.features(images)
        selected = detector.select(detector.refine(features, detector.propose(features, sizes)[0]))
        each = detector.segment_stages(features, selected.rois, selected.labels, used)
    raw = RawDetections(selected.rois.boxes, selected.scores, selected.labels, selected.rois.valid, each[0])
    found = {}
    for subset in subsets:
        chosen = replace(raw, masks=each[[used.index(stage) for stage in subset]].mean(0))
        rows = enumerate(zip(sizes.tolist(), original_sizes, strict=True))
        found[subset] = [
            original_pixels(chosen, row, (height, width), original, predictor.config)
            for row, ((height, width), original) in rows
        ]
    return found
