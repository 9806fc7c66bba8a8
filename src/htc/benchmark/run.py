"""Run the measurements of `htc benchmark`."""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision

from htc.benchmark.components import Components, components
from htc.benchmark.measuring import Conditions, thread_count
from htc.benchmark.memory import Memory, memory
from htc.benchmark.pairs import Pair, against_mask_rcnn, against_torchvision, pooling, run_lengths
from htc.benchmark.training_step import TrainingStep, training_step
from htc.benchmark.work import mask_rcnn_of
from htc.config import Config, Precision
from htc.errors import ConfigError
from htc.presets import preset

BenchmarkPart = Literal["components", "pairs", "training", "memory"]
BENCHMARK_PARTS: tuple[BenchmarkPart, ...] = ("components", "pairs", "training", "memory")
MULTIPLE = 32
SMALLEST_SIDE = 64


@dataclass(frozen=True)
class Amounts:
    """Amounts of work: image sizes (height, width), detections in two comparisons, instances in the training image."""

    size: tuple[int, int] = (800, 1344)
    training_size: tuple[int, int] = (512, 672)
    detections: tuple[int, int] = (100, 20)
    objects: int = 64
    repeats: int = 5
    proposals: int | None = None
    """None: the number in the configuration."""


QUICK = Amounts(size=(64, 96), training_size=(64, 96), detections=(4, 2), objects=3, repeats=1, proposals=20)
"""Small amounts, to test that the benchmark runs."""


@dataclass(frozen=True)
class Report:
    """The measurements and the machine; a list is empty if its part was not requested."""

    machine: dict[str, Any]
    components: list[Components] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    training: list[TrainingStep] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)


def run_benchmark(
    config: Config,
    amounts: Amounts | None = None,
    *,
    parts: Sequence[BenchmarkPart] = BENCHMARK_PARTS,
    threads: Sequence[int] = (1,),
    precisions: Sequence[Precision] = ("fp32", "bf16"),
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Measure the model of `config` with random weights, for every number of threads and precision.

    `progress` is called with the name of the next measurement. Raises `ConfigError` for invalid sizes, threads or
    repeats.
    """
    amounts = amounts or Amounts()
    _check(amounts, threads)
    if amounts.proposals is not None:
        config = _with_proposals(config, amounts.proposals)
    report = Report(describe_machine(device))
    for count in threads:
        for precision in precisions:
            setting = Conditions(amounts.size, count, precision, device, amounts.repeats)
            training = Conditions(amounts.training_size, count, precision, device, amounts.repeats)
            with thread_count(count):
                for name, measure in _measurements(config, amounts, setting, training, parts, report):
                    if progress is not None:
                        progress(f"{name} ({precision}, {count} thread{'s' if count > 1 else ''})")
                    measure()
    return report


def _measurements(
    config: Config, amounts: Amounts, setting: Conditions, training: Conditions, parts: Sequence[str], report: Report
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the measurements by name; each adds its results to the report."""
    many, few = amounts.detections
    plain = mask_rcnn_of(config)
    resnet50 = mask_rcnn_of(_with_proposals(preset("mask_rcnn_r50_fpn_1x_coco"), config.rpn.proposals))
    if "components" in parts:
        yield "components of prediction", lambda: report.components.append(components(config, setting, many))
    if "pairs" in parts:
        yield (
            f"against Mask R-CNN, {many} detections",
            lambda: report.pairs.append(against_mask_rcnn(config, setting, many)),
        )
        yield (
            f"against Mask R-CNN, {few} detections",
            lambda: report.pairs.append(against_mask_rcnn(config, setting, few)),
        )
        yield (
            "Mask R-CNN against torchvision's",
            lambda: report.pairs.append(against_torchvision(resnet50, setting, many)),
        )
        yield "RoI pooling", lambda: report.pairs.extend(pooling(config, setting))
        if setting.precision == "fp32":
            yield "RLE", lambda: report.pairs.append(run_lengths(config, setting, many))
    if "training" in parts:
        yield "training step", lambda: report.training.append(training_step(config, training, amounts.objects))
        yield (
            "training step of Mask R-CNN",
            lambda: report.training.append(training_step(plain, training, amounts.objects)),
        )
    if "memory" in parts:
        yield (
            "memory of prediction",
            lambda: report.memory.extend(filter(None, [memory("predict", config, setting, many)])),
        )
        yield (
            "memory of a training step",
            lambda: report.memory.extend(filter(None, [memory("training step", config, training, amounts.objects)])),
        )


def _with_proposals(config: Config, proposals: int) -> Config:
    return config.replace(rpn={"proposals": proposals})


def _check(amounts: Amounts, threads: Sequence[int]) -> None:
    for name, size in (("size", amounts.size), ("training size", amounts.training_size)):
        if any(edge % MULTIPLE or edge < SMALLEST_SIDE for edge in size):
            raise ConfigError(
                f"{name} {size[0]}x{size[1]}: height and width must be multiples of {MULTIPLE}, at least "
                f"{SMALLEST_SIDE}, as in 800x1344"
            )
    if amounts.repeats < 1:
        raise ConfigError(f"{amounts.repeats} repeats: give 1 or more (5 for results to publish)")
    wrong = [count for count in threads if count < 1]
    if wrong or not threads:
        raise ConfigError(f"threads {list(threads)}: give 1 or more")


def describe_machine(device: str) -> dict[str, Any]:
    """Describe the machine and the software versions."""
    described = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    }
    if hasattr(os, "getloadavg"):
        described["load before"] = round(os.getloadavg()[0], 2)
    return described


def _processor() -> str:
    """Return the name of the processor: from a file on Linux, else from `platform`."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
