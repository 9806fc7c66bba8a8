"""A training step on fixed work: the box of every instance is a positive in every stage, so that each stage trains this
number of masks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from htc.benchmark.measuring import Conditions, in_turn, peak_task
from htc.benchmark.work import fixed_boxes, random_detector
from htc.config import Config
from htc.ops.onednn import exact_onednn_matmul
from htc.training.objective import TrainingObjective
from htc.types import Batch, GroundTruth, MaskCrops


@dataclass(frozen=True)
class TrainingStep:
    """Medians for a forward, backward and optimizer step on one image."""

    model: str
    setting: Conditions
    objects: int
    seconds: float
    gflop: float
    share_of_peak: float


def training_batch(config: Config, setting: Conditions, objects: int) -> Batch:
    """Create a batch of one image with round instances and a semantic map of blocks."""
    numbers = torch.Generator().manual_seed(0)
    height, width = setting.size
    boxes = fixed_boxes(objects, setting.size, numbers).round()
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    extent = (boxes[:, 2:] - boxes[:, :2]).long()
    crops = [_disc(int(h), int(w)) for w, h in extent.tolist()]
    masks = MaskCrops(torch.cat([crop.flatten() for crop in crops]), extent.flip(1), boxes[:, :2].long(), setting.size)
    labels = torch.randint(config.num_classes, (objects,), generator=numbers)
    semantic = None
    if config.semantic is not None:
        blocks = torch.randint(
            config.semantic.classes, (1, height // 32, width // 32), generator=numbers, dtype=torch.uint8
        )
        semantic = blocks.repeat_interleave(32, 1).repeat_interleave(32, 2)
    images = torch.randn(1, 3, height, width, generator=numbers).contiguous(memory_format=torch.channels_last)
    truth = GroundTruth(boxes, labels, masks, torch.zeros(0, 4))
    return Batch(images, torch.tensor([setting.size]), (truth,), semantic, (0,), (0,)).to(setting.torch_device)


def _disc(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(*(((torch.arange(n) + 0.5) / n * 2 - 1) for n in (height, width)), indexing="ij")
    return (torch.hypot(x, y) <= 1).to(torch.uint8)


def step_task(config: Config, setting: Conditions, objects: int) -> Callable[[], None]:
    """Return a training step that can be repeated: its learning rate is 0, so that every step does the same work."""
    detector = random_detector(config).to(setting.torch_device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    objective = TrainingObjective(detector, detector.config)
    optimizer = torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=0.0, momentum=0.9)
    batch = training_batch(config, setting, objects)

    def step() -> None:
        optimizer.zero_grad()
        with exact_onednn_matmul():
            with torch.autocast(setting.torch_device.type, torch.bfloat16, enabled=setting.precision == "bf16"):
                losses = objective(batch)
            torch.stack([value.float() for value in losses.values()]).sum().backward()
        optimizer.step()

    return step


def training_step(config: Config, setting: Conditions, objects: int) -> TrainingStep:
    """Time a step of `config`'s model on one image with `objects` instances, alternating with the peak."""
    step, clock = step_task(config, setting, objects), setting.clock
    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops()
    peak = peak_task(clock, (setting.size[0] // 4, setting.size[1] // 4), setting.dtype, setting.torch_device)
    peaks, seconds = in_turn([peak, lambda: clock.total(step)], setting.repeats)
    share = median(flops / s / p for s, p in zip(seconds, peaks, strict=True))
    return TrainingStep(config.preset, setting, objects, median(seconds), flops / 1e9, share)
