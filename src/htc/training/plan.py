"""The configuration of a training: given by the user, recorded in the run to resume, or derived from the dataset."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import nn

from htc.checkpoint.load import load_model
from htc.checks.before_training import check_data
from htc.config import Config
from htc.data.advice import SMALL_SHARE, statistics_of
from htc.data.coco import Splits, read_coco
from htc.data.dataset import Dataset
from htc.data.held_out import validation_part
from htc.data.semantic_maps import MapSources
from htc.inference.device import choose_device
from htc.model.backbones.custom import with_custom
from htc.presets import DEFAULT_PRESET, PRESETS, preset
from htc.ranks import here
from htc.settings.layers import Setting, from_file, names_preset, overlay, resolve
from htc.training.auto_config import EVERY, Chosen, choose_config, derived_choices, recorded_choice, total_memory
from htc.training.distributed import by_first
from htc.training.events import Choice
from htc.training.finetune import fit_to_data
from htc.training.fit_time import (
    LEAST_LIMITED_SIDE,
    SHRINKS,
    Candidate,
    Fitted,
    Measurements,
    fit_to_limit,
    steps_per_epoch,
)
from htc.training.pace import StepTime, time_evaluation, time_steps
from htc.training.run import CONFIG, Options, read_dataset
from htc.training.schedule import Costs, TimeLimit
from htc.training.start import KINDS, Start
from htc.training.validation import validation_batches, validation_losses

EVALUATED, LIMIT, STEPS, WEIGHTS = "validation images", "max_time", "steps", "weights"
"""Names in `choices.json` that a resumed run reads."""


@dataclass(frozen=True)
class TrainingPlan:
    """A resolved configuration for a dataset, and the choices that led to it."""

    dataset: Dataset
    """The training images."""
    config: Config
    """With the classes of the user or the preset; `htc.training.run.run_training` takes this one."""
    fitted: Config
    """With the classes of the dataset; recorded in the run folder."""
    chosen: tuple[Choice, ...]
    """The values derived from the dataset; empty if a preset is named or a run is resumed."""
    evaluate_every: int
    """Epochs between two evaluations."""
    options: Options
    evaluation_rule: str | None
    """The rule that set `evaluate_every`; None without validation images."""
    splits: Splits
    """The files to train and evaluate on; with a time limit, a part of the validation images may be enough."""

    def choices(self) -> tuple[Choice, ...]:
        """Return every choice with its rule, including those that follow from the configuration: learning rate,
        semantic targets, evaluations. Raises `ConfigError` for a backbone that cannot be built.
        """
        training, options = self.config.training, self.options
        images_per_step = training.batch_size * training.accumulate * here().ranks
        from_weights = options.weights is not None or options.resume
        choices = [
            *self.chosen,
            *derived_choices(self.fitted, options.semantic, images_per_step, from_weights=from_weights),
        ]
        if self.evaluation_rule is not None:
            choices.append(Choice({EVERY: self.evaluate_every}, self.evaluation_rule))
        return tuple(choices)


def plan_training(
    splits: Splits,
    folder: Path,
    *,
    settings: Sequence[Setting] = (),
    options: Options,
    evaluate_every: int | None = None,
    start: Start | None = None,
) -> TrainingPlan:
    """Resolve the configuration of a training in `folder`, and the epochs between evaluations if not given.

    A resumed run keeps its configuration; a preset named in `settings` sets every hyperparameter; otherwise preset,
    input size, anchors, batch size and epochs are derived from the dataset. `settings` override any of these. With a
    time limit, the length is fitted to it, and so is the input size unless a preset is named. `start` are the weights
    that were chosen for a new training. Raises `DataError`, `ConfigError` and `CheckpointError`.
    """
    options = options if start is None else replace(options, weights=start.weights)
    dataset = read_dataset(splits, options)
    every, chosen, rule = evaluate_every or 1, (), "epochs between two evaluations on the validation images"
    if options.resume:
        config = _recorded_config(folder, settings)
        every = evaluate_every or recorded_choice(folder, EVERY, 1)
        options, splits = _recorded_limit(folder, config, dataset, splits, options)
        weights = recorded_choice(folder, WEIGHTS, None)  # for folds that have not begun
        options = replace(options, weights=None if weights in KINDS else weights)
    elif options.minutes is not None:
        fitted = by_first(lambda: _fitted(dataset, splits, settings, options, evaluate_every, start))
        config, chosen, every = fitted.config, fitted.choices, fitted.evaluate_every
        rule += "" if evaluate_every else "; those before the last take at most an eighth of the time"
        options = replace(options, limit=fitted.limit, workers=fitted.workers)
        splits = by_first(lambda: validation_part(splits, fitted.evaluated_images, folder / "data"))
    elif names_preset(settings):
        config = resolve(settings, DEFAULT_PRESET)
        if start is not None and start.weights is not None:
            chosen = (Choice({WEIGHTS: start.weights}, start.rule),)
    else:
        derived = _chosen_for(dataset, settings, options, start)
        config, chosen, every = derived.config, derived.choices, evaluate_every or derived.evaluate_every
        rule += "" if evaluate_every else "; about twenty evaluations in all"
    if options.backbone is not None:
        config, _ = with_custom(config, options.backbone)
    fitted_config = fit_to_data(config, dataset, options.semantic)
    evaluated = splits.val_annotations is not None
    return TrainingPlan(dataset, config, fitted_config, chosen, every, options, rule if evaluated else None, splits)


def _recorded_limit(
    folder: Path, config: Config, dataset: Dataset, splits: Splits, options: Options
) -> tuple[Options, Splits]:
    """Return the options and files of a resumed run with the limit and the validation images that it recorded.

    A limit given now replaces the recorded one; the checkpoint has the plan and the time used.
    """
    minutes = options.minutes or recorded_choice(folder, LIMIT, None)
    images = recorded_choice(folder, EVALUATED, None)
    if images is not None:
        splits = validation_part(splits, images, folder / "data")
    if minutes is None:
        return options, splits
    steps = recorded_choice(folder, STEPS, None)
    whole = config.training.epochs * steps_per_epoch(config, dataset, here().ranks)
    started = options.started or time.monotonic()
    limit = TimeLimit(minutes, started, steps or whole, Costs(0.0), None if steps else whole)
    return replace(options, minutes=minutes, limit=limit), splits


def _fitted(
    dataset: Dataset,
    splits: Splits,
    settings: Sequence[Setting],
    options: Options,
    evaluate_every: int | None,
    start: Start | None,
) -> Fitted:
    """Fit the training to its time limit: measure its speed and choose size and length together."""
    assert options.minutes is not None
    device, data = choose_device(options.device), statistics_of(dataset)
    candidates = _candidates(dataset, settings, options, start)
    validation = read_coco(splits.val_annotations, splits.val_images) if splits.val_annotations is not None else None
    maps = options.semantic if isinstance(options.semantic, MapSources) else None
    check_data(fit_to_data(candidates[0].config, dataset, options.semantic), splits, maps)

    def fitted(config: Config) -> Config:
        config = config if options.backbone is None else with_custom(config, options.backbone)[0]
        return fit_to_data(config, dataset, options.semantic)

    def step(config: Config, seconds: float) -> tuple[StepTime, nn.Module]:
        own = {"backbone": options.backbone, "transforms": options.transforms}
        return time_steps(fitted(config), dataset, device, seconds, **own)

    def evaluation(detector: nn.Module, config: Config, seconds: float) -> float:
        assert validation is not None
        own = fitted(config)

        def losses(detector: nn.Module, part: Dataset) -> None:
            validation_losses(detector, own, validation_batches(part, own, maps))

        return time_evaluation(detector, own, validation, seconds, losses if options.validation_losses else None)

    return fit_to_limit(
        candidates,
        Measurements(step, evaluation),
        options.minutes,
        options.started or time.monotonic(),
        dataset=dataset,
        data=data,
        validation_images=0 if validation is None else len(validation),
        given=settings,
        evaluate_every=evaluate_every,
        workers=None if options.workers == "auto" else options.workers,
        processes=here().ranks,
    )


def _candidates(
    dataset: Dataset, settings: Sequence[Setting], options: Options, start: Start | None
) -> list[Candidate]:
    """Return the configurations that a time limit may choose from, from the largest input to the smallest."""
    if names_preset(settings):
        return [Candidate(resolve(settings, DEFAULT_PRESET), ())]
    data, found = statistics_of(dataset), []
    smallest = float(np.quantile(data.sides, SMALL_SHARE)) if len(data.boxes) else 0.0
    for shrink in SHRINKS:
        derived = _chosen_for(dataset, settings, options, start, shrink)
        scale = derived.config.input.max_scale or 1.0
        if found and smallest * scale < LEAST_LIMITED_SIDE:
            break
        if not found or derived.config != found[-1].config:
            found.append(Candidate(derived.config, derived.choices))
    return found


def _recorded_config(folder: Path, settings: Sequence[Setting]) -> Config:
    """Read the configuration of the run in `folder` and apply the settings to it."""
    recorded_file = folder / CONFIG
    if not recorded_file.is_file():
        return resolve(settings, DEFAULT_PRESET)
    return overlay(resolve(from_file(recorded_file), DEFAULT_PRESET), settings)


def _chosen_for(
    dataset: Dataset, settings: Sequence[Setting], options: Options, start: Start | None, shrink: float = 1.0
) -> Chosen:
    """Derive the configuration from the dataset, the device and the weights to start from."""
    weights, named = options.weights, None
    if weights is not None:
        is_preset = weights in PRESETS and not Path(weights).exists()
        named = weights, preset(weights) if is_preset else load_model(weights).config
    base = None if start is None or start.config is None else (start.config, start.rule)
    memory = total_memory(choose_device(options.device))
    chosen = choose_config(dataset, settings, memory, named, here().ranks, shrink, base)
    if start is None:
        return chosen
    shown = Choice({WEIGHTS: start.weights or start.kind}, start.rule)
    return replace(chosen, choices=(chosen.choices[0], shown, *chosen.choices[1:]))
