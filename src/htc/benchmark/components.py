"""Time, operations and fraction of the machine's peak for each component of prediction, from an image to RLE masks.

A path is a generator that yields the name of each component after it has run; the caller measures time or counts
operations in between. The next component gets the fixed inputs of `Work` instead of the outputs of random weights.
Torchvision's Mask R-CNN is divided into the same components.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from pycocotools import mask as coco_mask
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import maskrcnn_inference, paste_masks_in_image

from htc.benchmark.measuring import Conditions, flops_of_parts, in_turn, peak_task
from htc.benchmark.work import BENCHMARK_SCORE_THRESHOLD, Work, make_work, random_detector
from htc.config import Config
from htc.model.detector import Detector
from htc.model.optimize import for_inference
from htc.ops.masks import mask_grid
from htc.ops.onednn import exact_onednn_matmul
from htc.ops.run_lengths import rle
from htc.types import Features


def detector_path(detector: Detector, work: Work) -> Iterator[str]:
    """Run the components of our Mask R-CNN, Cascade Mask R-CNN or HTC."""
    maps = detector.backbone(work.images.to(detector.rpn.conv.weight.dtype))
    yield "backbone"
    pyramid = detector.neck(maps)
    yield "neck"
    levels = detector.rpn(pyramid)
    yield "RPN head"
    detector.rpn.propose_at_test(levels, work.sizes)
    yield "proposals"
    semantic = None
    if detector.semantic is not None:
        semantic = detector.semantic.embedding(detector.semantic(pyramid))
        yield "semantic"
    features = Features(pyramid, semantic, None)
    if work.images.device.type == "cpu":
        for pooled in features.pooled:
            assert pooled is None or len(pooled.table)
        yield "pixel table"
    stages = detector.refine(features, work.proposals)
    yield "refine"
    detector.select([replace(stage, class_logits=work.class_logits) for stage in stages])
    yield "select"
    detector.segment(features, work.detections, work.labels)
    yield "segment"
    rle(mask_grid(work.probabilities, work.detections.boxes[0], work.size))
    yield "RLE"


def torchvision_mask_rcnn(classes: int, proposals: int, detections: int) -> MaskRCNN:
    """Build torchvision's Mask R-CNN R-50 as its users run it: float32, its own memory layout, random weights."""
    torch.manual_seed(0)
    limits = {
        "rpn_post_nms_top_n_test": proposals,
        "box_score_thresh": BENCHMARK_SCORE_THRESHOLD,
        "box_detections_per_img": detections,
    }
    return maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes + 1, **limits).eval()


def torchvision_path(model: MaskRCNN, work: Work) -> Iterator[str]:
    """Run the same components of torchvision's model on the same work, with pasted and encoded masks."""
    sizes = [work.size]
    heads: Any = model.roi_heads  # its parts are typed as tensors
    boxes, detections = [work.proposals.boxes[0]], [work.detections.boxes[0]]
    maps = model.backbone(work.images.contiguous())
    yield "backbone and neck"
    model.rpn(ImageList(work.images, sizes), maps)
    yield "RPN head and proposals"
    _, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, boxes, sizes)))
    yield "refine"
    logits = work.class_logits[0].roll(1, dims=-1)  # torchvision's background comes first
    heads.postprocess_detections(logits, torch.zeros_like(deltas), boxes, sizes)
    yield "select"
    masks = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(maps, detections, sizes)))
    maskrcnn_inference(masks, [work.labels[0] + 1])
    yield "segment"
    encode_dense(paste_masks_in_image(work.probabilities[:, None], detections[0].cpu(), work.size)[:, 0].numpy() >= 0.5)
    yield "RLE"


def encode_dense(masks: Bool[np.ndarray, "N H W"]) -> list[dict[str, object]]:
    """Encode dense masks as COCO RLE with pycocotools."""
    encoded: Any = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [{**item, "counts": item["counts"].decode("ascii")} for item in encoded]


@dataclass(frozen=True)
class ComponentTime:
    """Medians over the repetitions for one component. Components that only move data have 0 GFLOP."""

    name: str
    seconds: float
    gflop: float
    gflops_per_second: float
    share_of_peak: float
    """Fraction of the peak, 0..1: the median over repetitions, each with the peak measured in the same repetition."""


@dataclass(frozen=True)
class Components:
    """The components of one model in one setting, and their sum under the name `total`."""

    model: str
    setting: Conditions
    peak_gflops_per_second: float
    parts: list[ComponentTime]


def ready_detector(config: Config, setting: Conditions) -> Detector:
    """Build a detector for prediction in the precision and on the device of the setting."""
    return for_inference(random_detector(config), setting.precision).to(setting.torch_device)


def setting_work(config: Config, setting: Conditions, detections: int) -> Work:
    """Return the fixed work of this setting."""
    return make_work(setting.size, config.num_classes, config.rpn.proposals, detections, setting.torch_device)


@torch.inference_mode()
def components(config: Config, setting: Conditions, detections: int) -> Components:
    """Time every component of `config`'s model with `detections` detections, alternating with the peak."""
    detector, work, clock = ready_detector(config, setting), setting_work(config, setting, detections), setting.clock
    flops = flops_of_parts(detector_path(detector, work))
    peak = peak_task(clock, (setting.size[0] // 4, setting.size[1] // 4), setting.dtype, setting.torch_device)
    with exact_onednn_matmul():
        rounds = in_turn(
            [lambda: {"peak": peak()}, lambda: clock.parts(detector_path(detector, work))], setting.repeats
        )
    peaks = [measured["peak"] for measured in rounds[0]]
    seconds = {name: [measured[name] for measured in rounds[1]] for name in flops}
    seconds["total"] = [sum(measured.values()) for measured in rounds[1]]
    flops["total"] = sum(flops.values())
    parts = [_part(name, times, flops[name], peaks) for name, times in seconds.items()]
    return Components(config.preset, setting, median(peaks) / 1e9, parts)


def _part(name: str, seconds: list[float], flops: int, peaks: list[float]) -> ComponentTime:
    shares = [flops / s / p if s else 0.0 for s, p in zip(seconds, peaks, strict=True)]
    typical = median(seconds)
    return ComponentTime(name, typical, flops / 1e9, flops / typical / 1e9 if typical else 0.0, median(shares))
