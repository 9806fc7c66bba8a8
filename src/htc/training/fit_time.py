"""Fit a training to a time limit before its first step: input size, crop, batch, steps and evaluations together.

A whole schedule on fewer pixels beats a part of one on more: the input is made smaller until enough steps fit. The
speed is measured on a few real steps at two sizes, and the time of an evaluation on some validation images.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from torch import nn

from htc.config import Config
from htc.data.advice import Statistics
from htc.data.dataset import Dataset
from htc.data.epochs import batches_per_epoch
from htc.data.transforms import resized_size
from htc.settings.layers import Setting, overlay
from htc.training.events import Choice
from htc.training.pace import StepTime, choose_workers, cores_here
from htc.training.schedule import Costs, TimeLimit, evaluation_interval, largest_that_fits, steps_within

SHRINKS = (1.0, 0.84, 0.71, 0.59, 0.5, 0.42, 0.35)
"""Input sizes that are tried, as shares of the one without a limit; each has about 0.7 of the pixels of the one
before.
"""
LEAST_LIMITED_SIDE = 12.0
"""Pixels (square root of the box's area) that nine in ten instances keep when the input is made smaller."""
WHOLE_SCHEDULE = 400
"""Steps for which the input is made smaller, if the time does not allow them at its full size."""
MEASURING = 0.03
"""Share of the limit that each measurement before the first step may take."""
MOST_MEASURING = 20.0
"""Seconds of a measurement, at most."""
LONGEST_EVALUATION = 0.15
"""Most of the time that one evaluation may take; beyond it, a part of the validation images is evaluated."""
WRITING = 3.0
"""Seconds for writing the model, the curves and the metrics at the end, before they are measured."""


@dataclass(frozen=True)
class Candidate:
    """A configuration that the training may have, with its choices."""

    config: Config
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Fitted:
    """The configuration that fits the limit, the choices that led to it, and the plan."""

    config: Config
    choices: tuple[Choice, ...]
    evaluate_every: int
    evaluated_images: int
    """Validation images of each evaluation."""
    workers: int
    limit: TimeLimit


@dataclass(frozen=True)
class Measurements:
    """What is timed: a training step of a configuration (with the detector of the measurement), and an evaluation of
    all validation images by it.
    """

    step: Callable[[Config, float], tuple[StepTime, nn.Module]]
    evaluation: Callable[[nn.Module, Config, float], float]


def fit_to_limit(
    candidates: Sequence[Candidate],
    measure: Measurements,
    minutes: float,
    started: float,
    *,
    dataset: Dataset,
    data: Statistics,
    validation_images: int,
    given: Sequence[Setting],
    evaluate_every: int | None,
    workers: int | None,
    processes: int = 1,
    now: Callable[[], float] = time.monotonic,
) -> Fitted:
    """Choose the largest of the candidates (from the largest to the smallest) whose schedule fits, and plan it.

    `given` are the user's settings, `evaluate_every` and `workers` theirs too if not None.
    """
    fields = {".".join(setting.path) for setting in given}
    wanted = [_wanted(one.config, dataset, fields, processes) for one in candidates]
    deadline, most_seconds = started + 60 * minutes, min(MOST_MEASURING, MEASURING * 60 * minutes)
    pixels = [training_pixels(one.config, data) for one in candidates]

    chosen = len(candidates) - 1
    times = {chosen: measure.step(candidates[chosen].config, most_seconds)}
    own_workers = workers
    if own_workers is None:
        own_workers, _ = choose_workers(times[chosen][0], cores_here())
    costs = _costs_of(pixels, {chosen: times[chosen][0].seconds(own_workers)})
    for _ in range(2):  # the smallest is measured; then the one that seems to fit, and again if that one does not
        chosen = largest_that_fits(
            [cost * steps for cost, steps in zip(costs, wanted, strict=True)],
            # an evaluation costs less than its share; the exact plan follows below
            (1 - LONGEST_EVALUATION) * (deadline - now()) - WRITING,
        )
        if chosen not in times:
            times[chosen] = measure.step(candidates[chosen].config, most_seconds)
            costs = _costs_of(pixels, {index: took.seconds(own_workers) for index, (took, _) in times.items()})
    step, config = costs[chosen], candidates[chosen].config

    evaluation, evaluated = 0.0, validation_images
    if validation_images:
        evaluation = measure.evaluation(times[chosen][1], config, most_seconds)
        longest = LONGEST_EVALUATION * 60 * minutes
        if evaluation > longest:
            evaluated = max(1, int(validation_images * longest / evaluation))
            evaluation *= evaluated / validation_images
    costs_of_run = Costs(step, evaluation, WRITING)
    per_epoch = steps_per_epoch(config, dataset, processes)
    left = deadline - now()
    every = evaluate_every or evaluation_interval(costs_of_run, left, per_epoch)
    steps = max(1, steps_within(costs_of_run, left, every * per_epoch))
    most = wanted[chosen] if "training.epochs" in fields else None
    if most is not None:
        steps = min(steps, most)
    limit = TimeLimit(minutes, started, steps, costs_of_run, most)
    config, schedule = _scheduled(config, steps, per_epoch, fields)
    full = max(1, round(steps * step / costs[0]))
    smaller = f"; at the full input size only about {full} steps would fit" if chosen > 0 else ""
    rule = (
        f"{now() - started:.0f} s used so far, {step:.2g} s a step (loading {times[chosen][0].loading:.2g} s), "
        f"{evaluation:.2g} s an evaluation, {WRITING:.0f} s to write the model; adapted after a tenth of the time"
        f"{smaller}"
    )
    choices = [*_without(candidates[chosen].choices, schedule)]
    choices.append(Choice({"max_time": minutes, "steps": steps, **schedule}, rule))
    if evaluated < validation_images:
        share = (
            f"of {validation_images}, spread evenly: all would take {evaluation * validation_images / evaluated:.0f} s"
        )
        choices.append(Choice({"validation images": evaluated}, share))
    return Fitted(config, tuple(choices), every, evaluated, own_workers, limit)


def training_pixels(config: Config, data: Statistics) -> float:
    """Return the mean pixels of a batch of this configuration."""
    size, crop = config.input, config.training.augmentation.crop
    shapes, counts = np.unique(data.sizes, axis=0, return_counts=True)
    total = 0.0
    for shape, count in zip(shapes, counts, strict=True):
        height, width = resized_size((int(shape[0]), int(shape[1])), size.short_edge, size.long_edge, size.max_scale)
        if crop is not None:
            height, width = min(height, crop[0]), min(width, crop[1])
        total += float(count) * height * width
    return config.training.batch_size * total / max(1, int(counts.sum()))


def steps_per_epoch(config: Config, dataset: Dataset, processes: int = 1) -> int:
    """Return the optimizer steps of an epoch over all processes."""
    training = config.training
    batches = batches_per_epoch(dataset, training.sampling, training.batch_size * processes)
    return ceil(batches / training.accumulate)


def _wanted(config: Config, dataset: Dataset, fields: set[str], processes: int) -> int:
    """Return the steps of a whole schedule: those of the user's epochs, else `WHOLE_SCHEDULE`."""
    if "training.epochs" in fields:
        return config.training.epochs * steps_per_epoch(config, dataset, processes)
    return WHOLE_SCHEDULE


def _costs_of(pixels: Sequence[float], measured: dict[int, float]) -> list[float]:
    """Estimate the seconds of a step at each number of pixels: a line through two measurements, or proportional to the
    pixels with one.
    """
    (small, *others) = sorted(measured, key=lambda index: pixels[index])
    if not others or pixels[others[-1]] <= pixels[small]:
        slope, fixed = measured[small] / max(1.0, pixels[small]), 0.0
    else:
        large = others[-1]
        slope = max(0.0, (measured[large] - measured[small]) / (pixels[large] - pixels[small]))
        fixed = max(0.0, measured[small] - slope * pixels[small])
    return [measured.get(index, fixed + slope * count) for index, count in enumerate(pixels)]


def _scheduled(config: Config, steps: int, per_epoch: int, fields: set[str]) -> tuple[Config, dict[str, object]]:
    """Return the configuration with the epochs, milestones and warm-up of so many steps, and the changed fields."""
    training = config.training
    epochs = max(1, ceil(steps / per_epoch))
    changes: dict[str, object] = {
        "training.epochs": epochs,
        "training.warmup_steps": min(training.warmup_steps, steps // 10),
    }
    if training.schedule == "steps" and "training.schedule" not in fields:
        if epochs >= len(training.milestones) * 6:
            changes["training.milestones"] = tuple(max(1, round(epochs * part)) for part in (2 / 3, 11 / 12))
        else:
            changes["training.schedule"] = "cosine"
    free = {name: value for name, value in changes.items() if name not in fields}
    settings = [Setting(tuple(name.split(".")), value, "time limit") for name, value in free.items()]
    if "training.epochs" in fields:
        # fewer of the user's epochs may fit; the plan counts steps, and the configuration keeps what the user set
        free.pop("training.epochs", None)
    return overlay(config, settings), free


def _without(choices: Sequence[Choice], fields: Mapping[str, object]) -> list[Choice]:
    """Return the choices without those fields, and without the choices that are then empty."""
    rest = [
        (choice, {name: value for name, value in choice.fields.items() if name not in fields}) for choice in choices
    ]
    return [Choice(values, choice.rule) for choice, values in rest if values]
