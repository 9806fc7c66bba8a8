"""Where the time goes: seconds, operations and share of the machine's peak of every part of the test path."""

from dataclasses import dataclass
from statistics import median

import torch

from htc.benchmark.measuring import flops_of_parts, in_turn, peak_task
from htc.benchmark.paths import detector_path
from htc.benchmark.setting import Setting
from htc.benchmark.work import Work, make_work, random_detector
from htc.config import Config
from htc.model.detector import Detector
from htc.model.optimize import for_inference
from htc.ops.onednn import exact_onednn_matmul


@dataclass(frozen=True)
class Part:
    """One row: medians over the repetitions. Parts that move data rather than multiply have no GFLOP."""

    name: str
    seconds: float
    gflop: float
    gflops_per_second: float
    share_of_peak: float
    """0..1, the median of shares of a peak measured in the same repetition."""


@dataclass(frozen=True)
class Components:
    """The test path of one model on one setting, its parts and their sum under the name `total`."""

    model: str
    setting: Setting
    peak_gflops_per_second: float
    parts: list[Part]


def ready_detector(config: Config, setting: Setting) -> Detector:
    """A detector for prediction in the precision and on the device of the setting."""
    return for_inference(random_detector(config), setting.precision).to(setting.torch_device)


def setting_work(config: Config, setting: Setting, detections: int) -> Work:
    """The fixed work of this setting."""
    return make_work(setting.size, config.num_classes, config.rpn.proposals, detections, setting.torch_device)


@torch.inference_mode()
def components(config: Config, setting: Setting, detections: int) -> Components:
    """Times every part of the path of `config`'s model with so many detections, alternating with the peak."""
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


def _part(name: str, seconds: list[float], flops: int, peaks: list[float]) -> Part:
    shares = [flops / s / p if s else 0.0 for s, p in zip(seconds, peaks, strict=True)]
    typical = median(seconds)
    return Part(name, typical, flops / 1e9, flops / typical / 1e9 if typical else 0.0, median(shares))
