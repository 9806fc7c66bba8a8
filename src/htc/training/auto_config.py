"""Default hyperparameters derived from the dataset, each with the rule that set it.

A named preset decides everything. Without one, the preset, the input size, the anchors, the detections and the length
of the training come from the data, and the batch size from the device's memory; a value that the user gave stays.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from htc.config import AdamW, Config, NoMask, ResNet
from htc.data.advice import Statistics, anchor_scale, input_size, max_detections, repeat_threshold, statistics_of
from htc.data.dataset import Dataset
from htc.data.semantic_maps import MapSources
from htc.files import write_json
from htc.presets import preset
from htc.settings.layers import Setting, overlay
from htc.training.events import Choice
from htc.training.finetune import kept_random
from htc.training.optimizer import IMAGES_PER_STEP, base_learning_rate

GIB = 2**30


def total_memory(device: torch.device) -> float | None:
    """GiB of the device: a GPU's own, else the machine's; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GIB
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB


CHOICES = "choices.json"
EVERY = "evaluate every"
FROM_SCRATCH, LARGE_FROM_SCRATCH, SUGGESTED_WEIGHTS = "htc_r18_small", "htc_r50_scratch", "htc_r50_fpn_20e_coco"
ENOUGH_IMAGES = 10_000
"""From about so many on, a large network learns as much from scratch as from ImageNet weights (He, Girshick, Dollar
2019).
"""
STEPS = 1500
"""On fewer than `ENOUGH_IMAGES`, a training has at least so many steps, if `MOST_EPOCHS` allow."""
MOST_EPOCHS = 100
EVALUATIONS = 20
LARGEST_OBJECT = 0.9
"""A crop is at least twice as large as this part of the objects."""
SMALLEST_CROP = 256
SOURCE = "chosen by the data"
GIB_FIXED, GIB_A_MEGAPIXEL = 1.5, 5.0
"""Memory of a training step of HTC R-50: process, weights, gradients and momentum; and for each million pixels of a
batch.

`htc benchmark memory --size 512x672`: 2.2 GiB above the weights at 0.34 million pixels, of which 0.6 are gradients and
momentum.
"""
SIZED_DEPTH = 50
"""Networks below this depth are taken to fit anywhere."""
USABLE = 0.8
"""Part of a device's memory that a training may fill."""


@dataclass(frozen=True)
class Chosen:
    """A configuration for the data, what in it was chosen, and how many epochs lie between two evaluations."""

    config: Config
    choices: tuple[Choice, ...]
    evaluate_every: int


class _Chooser:
    """Lays choices over a configuration, below what the user gave."""

    def __init__(self, base: Config, given: Sequence[Setting]) -> None:
        self.config = overlay(base, given)
        self.base, self.given = base, given
        self.settings: list[Setting] = []
        self.choices: list[Choice] = []

    def is_given(self, field: str) -> bool:
        """Whether the user set this field, a part of it or the whole it belongs to."""
        path = tuple(field.split("."))
        return any(path[: len(one.path)] == one.path or one.path[: len(path)] == path for one in self.given)

    def take(self, fields: Mapping[str, Any], rule: str, *, together: bool = False) -> None:
        """Choose these fields, but for those that are given; all or none if they belong `together`."""
        free = {name: value for name, value in fields.items() if not self.is_given(name)}
        if not free or (together and len(free) < len(fields)):
            return
        self.settings += [Setting(tuple(name.split(".")), value, SOURCE) for name, value in free.items()]
        self.config = overlay(self.base, [*self.settings, *self.given])
        self.choices.append(Choice(free, rule))


def choose_config(
    dataset: Dataset,
    given: Sequence[Setting],
    memory: float | None,
    weights: tuple[str, Config] | None = None,
    processes: int = 1,
) -> Chosen:
    """The configuration for `dataset` where no preset is given.

    `given` is what the user set, `memory` the device's in GiB, `weights` the name and configuration of what training
    starts from, `processes` how many train together. Raises `ConfigError` for what was given.
    """
    data = statistics_of(dataset)
    base, rule = _base(len(dataset), memory, weights)
    chooser = _Chooser(base, given)
    chooser.choices.append(Choice({"preset": base.preset}, rule))
    size = input_size(data)
    chooser.take(size.settings, size.reason, together=True)
    if weights is None:
        anchors = anchor_scale(data, chooser.config.input, base.rpn.anchor_scale, chooser.config.rpn.anchor_ratios)
        chooser.take(anchors.settings, anchors.reason)
    _crop(chooser, data)
    most = max_detections(data)
    chooser.take(most.settings, most.reason)
    rare = repeat_threshold(data)
    if rare is not None:
        rule = (
            "some classes are on less than a tenth as many images as the median class: their images are shown "
            "more often (repeat factors of LVIS)"
        )
        chooser.take({"training.sampling.repeat_threshold": float(f"{rare:.4g}")}, rule)
    _batch(chooser, memory)
    _length(chooser, len(dataset), processes)
    epochs = chooser.config.training.epochs
    return Chosen(chooser.config, tuple(chooser.choices), max(1, epochs // EVALUATIONS))


def _base(images: int, memory: float | None, weights: tuple[str, Config] | None) -> tuple[Config, str]:
    """The preset by what there is to learn from."""
    if weights is not None:
        name, config = weights
        return (
            config,
            f"the weights {name} are of this architecture; its anchors stay, since the weights have learned them",
        )
    advice = (
        f"; for a better model on few images start from released weights (--weights {SUGGESTED_WEIGHTS}) or your own"
    )
    if images < ENOUGH_IMAGES:
        return (
            preset(FROM_SCRATCH),
            f"{images} images and no weights: below {ENOUGH_IMAGES} a large network learns too little from "
            f"scratch{advice}",
        )
    large = preset(LARGE_FROM_SCRATCH)
    needed = gib_needed(large, 1)
    if memory is not None and memory * USABLE < needed:
        fit = f"the larger {LARGE_FROM_SCRATCH} needs {needed:.0f} GiB and the device has {memory:.0f}"
        return preset(FROM_SCRATCH), f"{images} images are enough for a large network, but {fit}"
    return (
        large,
        f"{images} images, at least {ENOUGH_IMAGES}: a large network learns from scratch; it needs {needed:.0f} GiB",
    )


def gib_needed(config: Config, batch_size: int) -> float:
    """A training step's memory with a ResNet-50 sized model, estimated from the pixels of the batch."""
    crop = config.training.augmentation.crop
    pixels = config.input.short_edge * config.input.long_edge if crop is None else crop[0] * crop[1]
    return GIB_FIXED + GIB_A_MEGAPIXEL * batch_size * pixels / 1e6


def _crop(chooser: _Chooser, data: Statistics) -> None:
    """Crops that show most objects whole; whole images where a crop would be nearly as large."""
    present = chooser.config.training.augmentation.crop
    if present is None or not len(data.boxes):
        return
    size = chooser.config.input
    scale = min(size.max_scale or np.inf, size.short_edge / float(np.median(data.sizes.min(1))))
    side = float(np.quantile((data.boxes[:, 2:] - data.boxes[:, :2]).max(1), LARGEST_OBJECT)) * scale
    crop = max(SMALLEST_CROP, ceil(2 * side / 32) * 32)
    rule = (
        f"nine in ten objects are at most {side:.0f} px long in the network's input, and a crop is twice as "
        f"large, at "
        f"least {SMALLEST_CROP} px"
    )
    whole = crop >= 0.75 * size.short_edge
    value = None if whole else (crop, crop)
    chooser.take(
        {"training.augmentation.crop": value},
        rule + (f": {crop} px is nearly the whole image, so no crop" if whole else ""),
    )


def _batch(chooser: _Chooser, memory: float | None) -> None:
    """The preset's batch, or as much of it as fits; small networks fit anywhere."""
    wanted, backbone = chooser.config.training.batch_size, chooser.config.backbone
    if memory is None or (isinstance(backbone, ResNet) and backbone.depth < SIZED_DEPTH):
        return
    room = int((memory * USABLE - GIB_FIXED) / (gib_needed(chooser.config, 1) - GIB_FIXED))
    if room < wanted:
        needed = (
            f"{wanted} images a step need about {gib_needed(chooser.config, wanted):.0f} GiB, the device has "
            f"{memory:.0f}"
        )
        chooser.take({"training.batch_size": max(1, room)}, needed)


def _length(chooser: _Chooser, images: int, processes: int) -> None:
    """Epochs by the number of steps; milestones at 2/3 and 11/12 of them, as in the original's 12 epochs (8, 11)."""
    training = chooser.config.training
    together = training.batch_size * processes
    steps = ceil(ceil(images / together) / training.accumulate)
    if images < ENOUGH_IMAGES:
        epochs = min(MOST_EPOCHS, max(training.epochs, ceil(STEPS / steps)))
        most = f"at most {MOST_EPOCHS} epochs, at least the preset's {training.epochs}"
        rule = f"{steps} steps an epoch of {together * training.accumulate} images; at least {STEPS} steps, {most}"
        chooser.take({"training.epochs": epochs}, rule)
    epochs = chooser.config.training.epochs
    if training.schedule == "steps" and epochs != chooser.base.training.epochs:
        milestones = tuple(max(1, round(epochs * part)) for part in (2 / 3, 11 / 12))
        chooser.take({"training.milestones": milestones}, "the learning rate falls after 2/3 and 11/12 of the epochs")
    warmup = steps * epochs // 10
    if warmup < training.warmup_steps:
        chooser.take({"training.warmup_steps": warmup}, "the learning rate rises over a tenth of the steps at most")


def stated(
    config: Config, semantic: Literal["auto", "none"] | MapSources, images_per_step: int, *, from_weights: bool = False
) -> list[Choice]:
    """What follows from any configuration, chosen or given: the real learning rate and the semantic targets.

    `from_weights`: the training starts from a detector's weights, or goes on with an earlier one. Raises `ConfigError`
    for a backbone that cannot be built.
    """
    training = config.training
    rate = base_learning_rate(training, images_per_step)
    if isinstance(training.optimizer, AdamW):
        rule = f"AdamW's is used as it is, whatever the batch ({images_per_step} images a step)"
    else:
        rule = (
            f"linear scaling: SGD's {training.optimizer.lr:g} is for {IMAGES_PER_STEP} images a step, and a step "
            f"has {images_per_step}"
        )
    found = [Choice({"learning rate": float(f"{rate:.6g}")}, rule)]
    random = None if from_weights or config.backbone.pretrained else kept_random(config.backbone)
    if random is not None:
        found.append(Choice({"backbone.pretrained": False}, random))
    rpn = config.rpn
    if rpn.training_proposals < rpn.proposals:
        rule = (
            f"fewer than the {rpn.proposals} that a test keeps: what training never draws from may score high; "
            f"--rpn.training_proposals {rpn.proposals}"
        )
        found.append(Choice({"rpn.training_proposals": rpn.training_proposals}, rule))
    if isinstance(config.cascade.mask_head, NoMask):
        found.append(Choice({"cascade.mask_head.kind": "none"}, "no object has a mask: the model finds boxes alone"))
    if config.semantic is None or semantic == "none":
        return [*found, Choice({"semantic targets": "none"}, "the model has no semantic branch")]
    if semantic == "auto":
        derived = (
            f"derived from the instances: background and {config.num_classes} classes; small objects over "
            f"large ones, "
            f"crowds ignored"
        )
        return [*found, Choice({"semantic targets": "auto"}, derived)]
    merged = "merged: each of them lies over the one before" if len(semantic.merged) > 1 else "a PNG map for each image"
    return [*found, Choice({"semantic targets": ", ".join(semantic.merged)}, merged)]


def write_choices(folder: Path, choices: Sequence[Choice]) -> None:
    """`choices.json`: a list of `{"fields": {name: value}, "rule"}`."""
    write_json(folder / CHOICES, [asdict(choice) for choice in choices])


def recorded(folder: Path, field: str, default: Any) -> Any:
    """The value of a field in the `choices.json` of a run's folder; `default` if it is not there."""
    path = folder / CHOICES
    choices = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return next((choice["fields"][field] for choice in choices if field in choice["fields"]), default)
