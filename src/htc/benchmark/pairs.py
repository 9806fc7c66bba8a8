"""Comparisons on equal work, taken alternately: A B A B ..., the ratio being the median over the pairs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch

from htc.benchmark.components import ready_detector, setting_work
from htc.benchmark.measuring import in_turn, median_ratio
from htc.benchmark.paths import detector_path, encode_dense, torchvision_mask_rcnn, torchvision_path
from htc.benchmark.pooling import PoolingCase
from htc.benchmark.setting import Setting
from htc.benchmark.work import mask_rcnn_of
from htc.config import Config
from htc.ops.masks import mask_grid, paste
from htc.ops.onednn import exact_onednn_matmul
from htc.ops.run_lengths import rle

Task = Callable[[], float]


@dataclass(frozen=True)
class Pair:
    """`ratio` is seconds of `first` over seconds of `second`, median over the pairs; the seconds are medians as
    well.
    """

    name: str
    setting: Setting
    first: str
    second: str
    first_seconds: float
    second_seconds: float
    ratio: float
    checks: dict[str, float] = field(default_factory=dict)
    """How far the two agree: the names say in what."""


def _pair(name: str, setting: Setting, tasks: dict[str, Task], checks: dict[str, float] | None = None) -> Pair:
    first, second = tasks
    seconds = in_turn(list(tasks.values()), setting.repeats)
    return Pair(
        name, setting, first, second, median(seconds[0]), median(seconds[1]), median_ratio(*seconds), checks or {}
    )


@torch.inference_mode()
def against_mask_rcnn(config: Config, setting: Setting, detections: int) -> Pair:
    """The model of `config` over our own Mask R-CNN of the same backbone, from picture to RLE."""
    clock, work = setting.clock, setting_work(config, setting, detections)
    ours, plain = ready_detector(config, setting), ready_detector(mask_rcnn_of(config), setting)
    tasks: dict[str, Task] = {
        config.preset: lambda: clock.total(lambda: list(detector_path(ours, work))),
        "our Mask R-CNN": lambda: clock.total(lambda: list(detector_path(plain, work))),
    }
    with exact_onednn_matmul():
        return _pair(f"test path, {detections} detections, RLE included", setting, tasks)


@torch.inference_mode()
def against_torchvision(config: Config, setting: Setting, detections: int) -> Pair:
    """Torchvision's Mask R-CNN R-50 in float32 over ours in the setting's precision, from picture to RLE. `config`:
    a Mask R-CNN R-50.
    """
    clock, work = setting.clock, setting_work(config, setting, detections)
    theirs = torchvision_mask_rcnn(config.num_classes, config.rpn.proposals, detections).to(setting.torch_device)
    ours = ready_detector(config, setting)

    def run_ours() -> float:
        with exact_onednn_matmul():
            return clock.total(lambda: list(detector_path(ours, work)))

    tasks: dict[str, Task] = {
        "torchvision's Mask R-CNN, fp32": lambda: clock.total(lambda: list(torchvision_path(theirs, work))),
        "our Mask R-CNN": run_ours,
    }
    return _pair(f"Mask R-CNN R-50, {detections} detections, RLE included", setting, tasks)


def pooling(config: Config, setting: Setting) -> list[Pair]:
    """RoIAlign of all proposals from four levels and the semantic map, 7x7: torchvision's kernel in float32 over the
    gather.
    """
    case, clock = PoolingCase.make(config.neck.channels, setting_work(config, setting, 1), setting.dtype), setting.clock
    name = f"RoI pooling, {config.rpn.proposals} boxes, 7x7, four levels + semantic map"
    names = "torchvision, fp32", "gather"
    pairs = []
    for what, backward in (("forward", False), ("forward + backward", True)):
        tasks = {
            label: lambda c=c, b=backward: clock.total(lambda: c.run(backward=b))
            for label, c in zip(names, (case.reference, case.gather), strict=True)
        }
        pairs.append(_pair(f"{name}, {what}", setting, tasks, {"max error": case.error(gradients=backward)}))
    return pairs


def run_lengths(config: Config, setting: Setting, detections: int) -> Pair:
    """RLE of every mask: pasted into the picture and encoded by pycocotools, over straight from the crop."""
    clock, work = setting.clock, setting_work(config, setting, detections)
    boxes = work.detections.boxes[0].cpu()

    def dense() -> list[dict[str, object]]:
        return encode_dense(paste(work.probabilities, boxes, work.size).numpy())

    def straight() -> list[dict[str, object]]:
        return rle(mask_grid(work.probabilities, boxes, work.size))

    identical = sum(a == b for a, b in zip(dense(), straight(), strict=True))
    tasks: dict[str, Task] = {
        "paste + pycocotools": lambda: clock.total(dense),
        "from the crop": lambda: clock.total(straight),
    }
    return _pair(f"RLE of {detections} masks", setting, tasks, {"identical strings": identical / detections})
