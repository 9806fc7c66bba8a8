"""Default hyperparameters derived from the dataset, each with the rule that set it.

A named preset sets every hyperparameter. Without one, the preset, the input size, the anchors, the maximum number of
detections and the number of epochs are derived from the dataset, and the batch size from the device's memory. Values
that the user set are kept.
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
    """Memory of the device in GiB: a GPU's own, else the machine's; None if the system does not report it."""
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
"""Number of images from which a large network trained from scratch is about as accurate as one that starts from
ImageNet weights (He, Girshick, Dollar 2019).
"""
STEPS = 1500
"""Minimum number of optimizer steps on fewer than `ENOUGH_IMAGES` images, as far as `MOST_EPOCHS` allows."""
MOST_EPOCHS = 100
EVALUATIONS = 20
LARGEST_OBJECT = 0.9
"""Quantile of the instances' longest side; a crop has at least twice this side."""
SMALLEST_CROP = 256
SMALLEST_LIMITED_CROP = 128
"""Smallest crop if a time limit makes the input smaller."""
SOURCE = "chosen by the data"
GIB_FIXED, GIB_A_MEGAPIXEL = 1.5, 5.0
"""Memory of a training step of HTC R-50: a fixed part (process, weights, gradients, momentum), and a part for each
million pixels of a batch.

`htc benchmark memory --size 512x672`: 2.2 GiB above the weights at 0.34 million pixels, of which 0.6 are gradients and
momentum.
"""
SIZED_DEPTH = 50
"""Smallest ResNet depth for which memory is estimated; smaller networks are assumed to fit."""
USABLE = 0.8
"""Fraction of a device's memory that a training may use."""


@dataclass(frozen=True)
class Chosen:
    """A configuration for a dataset, the derived values with their rules, and the epochs between two evaluations."""

    config: Config
    choices: tuple[Choice, ...]
    evaluate_every: int


class _Chooser:
    """Apply derived values to a configuration; values that the user set take precedence."""

    def __init__(self, base: Config, given: Sequence[Setting]) -> None:
        self.config = overlay(base, given)
        self.base, self.given = base, given
        self.settings: list[Setting] = []
        self.choices: list[Choice] = []

    def is_given(self, field: str) -> bool:
        """Return whether the user set this field, a field inside it, or a section that contains it."""
        path = tuple(field.split("."))
        return any(path[: len(one.path)] == one.path or one.path[: len(path)] == path for one in self.given)

    def take(self, fields: Mapping[str, Any], rule: str, *, all_or_none: bool = False) -> None:
        """Set the fields that the user did not set; with `all_or_none`, set nothing if the user set one of them."""
        free = {name: value for name, value in fields.items() if not self.is_given(name)}
        if not free or (all_or_none and len(free) < len(fields)):
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
    shrink: float = 1.0,
    base: tuple[Config, str] | None = None,
) -> Chosen:
    """Derive the configuration for `dataset` when no preset is given.

    `given` holds the user's settings, `memory` is the device's in GiB, `weights` the name and configuration of the
    weights to start from, `processes` the world size; `shrink` makes input and crop smaller for a time limit; `base` is
    a configuration with its rule to start from instead of one for random weights. Raises `ConfigError` for invalid
    settings in `given`.
    """
    data = statistics_of(dataset)
    own, rule = base if base is not None and weights is None else _base(len(dataset), memory, weights)
    chooser = _Chooser(own, given)
    chooser.choices.append(Choice({"preset": own.preset}, rule))
    size = input_size(data, shrink)
    chooser.take(size.settings, size.reason, all_or_none=True)
    if weights is None:
        anchors = anchor_scale(data, chooser.config.input, own.rpn.anchor_scale, chooser.config.rpn.anchor_ratios)
        chooser.take(anchors.settings, anchors.reason)
    _crop(chooser, data, shrink)
    most = max_detections(data)
    chooser.take(most.settings, most.reason)
    rare = repeat_threshold(data)
    if rare is not None:
        rule = (
            "some classes are in less than a tenth as many images as the median class: their images are sampled "
            "more often (repeat factors of LVIS)"
        )
        chooser.take({"training.sampling.repeat_threshold": float(f"{rare:.4g}")}, rule)
    _batch(chooser, memory)
    _length(chooser, len(dataset), processes)
    epochs = chooser.config.training.epochs
    return Chosen(chooser.config, tuple(chooser.choices), max(1, epochs // EVALUATIONS))


def _base(images: int, memory: float | None, weights: tuple[str, Config] | None) -> tuple[Config, str]:
    """Choose the preset by the weights to start from, the number of images and the device's memory."""
    if weights is not None:
        name, config = weights
        return (
            config,
            f"the architecture of the weights {name}; its anchors are kept, since the weights were trained with them",
        )
    advice = (
        f"; for a better model on few images, start from released weights (--weights {SUGGESTED_WEIGHTS}) or your own"
    )
    if images < ENOUGH_IMAGES:
        return (
            preset(FROM_SCRATCH),
            f"{images} images and no weights: with fewer than {ENOUGH_IMAGES} images, a large network needs "
            f"pretrained weights to train well{advice}",
        )
    large = preset(LARGE_FROM_SCRATCH)
    needed = gib_needed(large, 1)
    if memory is not None and not fits(large, memory):
        fit = f"{LARGE_FROM_SCRATCH} needs {needed:.0f} GiB of memory and the device has {memory:.0f} GiB"
        return preset(FROM_SCRATCH), f"{images} images are enough for a large network, but {fit}"
    return (
        large,
        f"{images} images, at least {ENOUGH_IMAGES}: enough to train a large network from scratch; it needs "
        f"{needed:.0f} GiB of memory",
    )


def fits(config: Config, memory: float | None) -> bool:
    """Return whether a training step of a ResNet-50 sized model with one image fits the memory (GiB; None: unknown)."""
    return memory is None or memory * USABLE >= gib_needed(config, 1)


def gib_needed(config: Config, batch_size: int) -> float:
    """Estimate the memory (GiB) of a training step of a ResNet-50 sized model from the pixels of the batch."""
    crop = config.training.augmentation.crop
    pixels = config.input.short_edge * config.input.long_edge if crop is None else crop[0] * crop[1]
    return GIB_FIXED + GIB_A_MEGAPIXEL * batch_size * pixels / 1e6


def _crop(chooser: _Chooser, data: Statistics, shrink: float = 1.0) -> None:
    """Choose a crop that contains most instances entirely; no crop if it would be nearly as large as the image.

    `shrink` also applies to the smallest crop.
    """
    present = chooser.config.training.augmentation.crop
    if present is None or not len(data.boxes):
        return
    size = chooser.config.input
    scale = min(size.max_scale or np.inf, size.short_edge / float(np.median(data.sizes.min(1))))
    side = float(np.quantile((data.boxes[:, 2:] - data.boxes[:, :2]).max(1), LARGEST_OBJECT)) * scale
    smallest = max(SMALLEST_LIMITED_CROP, round(SMALLEST_CROP * shrink / 32) * 32)
    crop = max(smallest, ceil(2 * side / 32) * 32)
    rule = (
        f"90 % of the instances are at most {side:.0f} px long at the input size; the crop is twice that, at least "
        f"{smallest} px"
    )
    whole = crop >= 0.75 * size.short_edge
    value = None if whole else (crop, crop)
    chooser.take(
        {"training.augmentation.crop": value},
        rule + (f": {crop} px is nearly the whole image, so images are not cropped" if whole else ""),
    )


def _batch(chooser: _Chooser, memory: float | None) -> None:
    """Reduce the preset's batch size to what fits into the device's memory; small networks are assumed to fit."""
    wanted, backbone = chooser.config.training.batch_size, chooser.config.backbone
    if memory is None or (isinstance(backbone, ResNet) and backbone.depth < SIZED_DEPTH):
        return
    room = int((memory * USABLE - GIB_FIXED) / (gib_needed(chooser.config, 1) - GIB_FIXED))
    if room < wanted:
        needed = (
            f"{wanted} images a step need about {gib_needed(chooser.config, wanted):.0f} GiB of memory, the device "
            f"has {memory:.0f} GiB"
        )
        chooser.take({"training.batch_size": max(1, room)}, needed)


def _length(chooser: _Chooser, images: int, processes: int) -> None:
    """Choose the epochs from the number of steps, with milestones at 2/3 and 11/12 of them, as mmdetection's 12 epochs
    have (8, 11).
    """
    training = chooser.config.training
    global_batch = training.batch_size * processes
    steps = ceil(ceil(images / global_batch) / training.accumulate)
    if images < ENOUGH_IMAGES:
        epochs = min(MOST_EPOCHS, max(training.epochs, ceil(STEPS / steps)))
        most = f"at most {MOST_EPOCHS} epochs, at least the preset's {training.epochs}"
        rule = (
            f"{steps} steps of {global_batch * training.accumulate} images in an epoch; at least {STEPS} steps, {most}"
        )
        chooser.take({"training.epochs": epochs}, rule)
    epochs = chooser.config.training.epochs
    if training.schedule == "steps" and epochs != chooser.base.training.epochs:
        milestones = tuple(max(1, round(epochs * part)) for part in (2 / 3, 11 / 12))
        chooser.take({"training.milestones": milestones}, "the learning rate falls after 2/3 and 11/12 of the epochs")
    warmup = steps * epochs // 10
    if warmup < training.warmup_steps:
        chooser.take({"training.warmup_steps": warmup}, "warm-up takes at most a tenth of the steps")


def derived_choices(
    config: Config, semantic: Literal["auto", "none"] | MapSources, images_per_step: int, *, from_weights: bool = False
) -> list[Choice]:
    """Derive what follows from any configuration: the scaled learning rate, random frozen layers, semantic targets.

    `from_weights`: the training starts from a detector's weights or resumes a run. Raises `ConfigError` for a backbone
    that cannot be built.
    """
    training = config.training
    rate = base_learning_rate(training, images_per_step)
    if isinstance(training.optimizer, AdamW):
        rule = f"AdamW's learning rate is used as it is, for any batch size ({images_per_step} images a step)"
    else:
        rule = (
            f"linear scaling: SGD's {training.optimizer.lr:g} is for {IMAGES_PER_STEP} images a step, and a step "
            f"has {images_per_step}"
        )
    choices = [Choice({"learning rate": float(f"{rate:.6g}")}, rule)]
    random = None if from_weights or config.backbone.pretrained else kept_random(config.backbone)
    if random is not None:
        choices.append(Choice({"backbone.pretrained": False}, random))
    rpn = config.rpn
    if rpn.training_proposals < rpn.proposals:
        rule = (
            f"fewer than the {rpn.proposals} of prediction: proposals that are never sampled in training may get high "
            f"scores; to use all, add --rpn.training_proposals {rpn.proposals}"
        )
        choices.append(Choice({"rpn.training_proposals": rpn.training_proposals}, rule))
    if isinstance(config.cascade.mask_head, NoMask):
        choices.append(
            Choice({"cascade.mask_head.kind": "none"}, "no instance has a mask: the model predicts boxes only")
        )
    if config.semantic is None or semantic == "none":
        return [*choices, Choice({"semantic targets": "none"}, "the model has no semantic branch")]
    if semantic == "auto":
        derived = (
            f"derived from the instances: background and {config.num_classes} "
            f"class{'' if config.num_classes == 1 else 'es'}; smaller instances cover larger ones, crowds are ignored"
        )
        return [*choices, Choice({"semantic targets": "auto"}, derived)]
    merged = "merged: each covers the ones before it" if len(semantic.merged) > 1 else "a PNG map for each image"
    return [*choices, Choice({"semantic targets": ", ".join(semantic.merged)}, merged)]


def write_choices(folder: Path, choices: Sequence[Choice]) -> None:
    """Write `choices.json`: a list of `{"fields": {name: value}, "rule"}`."""
    write_json(folder / CHOICES, [asdict(choice) for choice in choices])


def recorded_choice(folder: Path, field: str, default: Any) -> Any:
    """Read the value of a field from the `choices.json` of a run folder; `default` if it is not recorded."""
    path = folder / CHOICES
    choices = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return next((choice["fields"][field] for choice in choices if field in choice["fields"]), default)
