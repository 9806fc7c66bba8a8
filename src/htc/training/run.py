"""Run a whole training: from a dataset and a configuration to a folder with the model, metrics, records and curves.

`Config` holds the model and its hyperparameters; `Options` how the training is run (seed, device, resume, checkpoints,
evaluations).
"""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from lightning import Callback
from lightning.pytorch.loggers import Logger
from torch import nn

from htc.checkpoint.formats.imagenet import start_from_imagenet
from htc.checkpoint.load import load_model
from htc.checkpoint.native import from_pretrained, save_pretrained
from htc.checks.before_training import check_data
from htc.config import Config
from htc.data.coco import Splits, read_coco
from htc.data.dataset import Dataset
from htc.data.loader import ImageLoader, training_loader
from htc.data.semantic_maps import MapSources, with_semantic_maps
from htc.data.user_transforms import Transforms
from htc.errors import DataError, OutputError
from htc.evaluation.coco import MetricValues
from htc.evaluation.drawings import draw_comparisons
from htc.evaluation.files import read_annotations
from htc.evaluation.run import match_categories
from htc.files import write_json, write_text
from htc.inference.device import choose_device
from htc.inference.predictor import Predictor
from htc.metrics import Metrics
from htc.model.detector import Detector
from htc.model.variants.recursive_pyramid import RecursivePyramid
from htc.settings.layers import to_yaml
from htc.training.auto_config import write_choices
from htc.training.checkpoints import EVERY_MINUTE, LAST, Checkpoints, Every
from htc.training.distributed import by_first, count, joined, leaves_parameters_unused, rank
from htc.training.events import Choice, EvaluationStep, Event, Listener, Message, Phase
from htc.training.finetune import fit_to_data, other_normalization, start_from
from htc.training.fit_time import steps_per_epoch
from htc.training.history import LOSSES, best_of, draw_curves, read_history, row_metrics
from htc.training.limit import TimeKeeper
from htc.training.loggers import check_loggers
from htc.training.metric_log import logging_to
from htc.training.module import TrainingModule, fit
from htc.training.objective import TrainingObjective
from htc.training.pace import DataWatch, Workers, can_be_sent, time_evaluation
from htc.training.record import LossRecord
from htc.training.result import MODEL, TrainingResult
from htc.training.schedule import Costs, StepPlan, TimeLimit
from htc.training.validation import BEST, Validation, evaluate_on_all_ranks, validation_batches, validation_losses


@dataclass(frozen=True)
class Options:
    """How a training is run; the model and its hyperparameters are in the configuration."""

    seed: int = 0
    device: str = "auto"
    minutes: float | None = None
    """The training ends, with its model, after this many minutes."""
    started: float | None = None
    """Reading of `time.monotonic()` from which the minutes count; None: the begin of `run_training`."""
    limit: TimeLimit | None = None
    """The steps that are planned for the minutes; None: as many of the configuration's epochs as fit."""
    stop_epoch: int | None = None
    """End after this epoch, with the learning rate that the schedule has there; None: after the last."""
    resume: bool = False
    """Resume exactly from the last checkpoint in the same folder, also within an epoch."""
    weights: str | None = None
    """Start from these weights: a preset's name, a folder or a file. Layers that depend on the classes may differ."""
    semantic: Literal["auto", "none"] | MapSources = "auto"
    """Semantic targets: derived from the instances, no semantic branch, or map files."""
    evaluate_every: int = 1
    """Epochs between two evaluations; the last epoch always has one."""
    validation_losses: bool = True
    """Compute every loss term on the validation images at each evaluation."""
    images: int = 6
    """Validation images to draw, with ground truth and prediction, at each best evaluation and at the last."""
    loggers: tuple[str | Logger, ...] = ()
    """Loggers of losses, metrics and hyperparameters, besides the files of the run folder: `tensorboard`, `wandb`,
    `mlflow`, or Lightning loggers.
    """
    callbacks: tuple[Callback, ...] = ()
    """The user's Lightning callbacks, called after the built-in ones. Resuming restores their state if it consists of
    numbers, strings, tensors and containers of them.
    """
    choices: tuple[Choice, ...] = ()
    """The values derived from the dataset and their rules, for `choices.json`."""
    checkpoints: Every | None = EVERY_MINUTE
    """How often a checkpoint is written, besides at the end of every epoch; None: never."""
    workers: Workers = 0
    """Number of processes that load images; 0 loads them in the training process; `auto` decides by measuring."""
    backbone: nn.Module | None = None
    """The user's own backbone, in place of the configured one."""
    transforms: Transforms | None = None
    """The user's own transform of each training image and its ground truth."""


METRICS, CHECKPOINTS, CONFIG, START = "metrics.json", "checkpoints", "config.yaml", "start.json"
DEFAULT_OPTIONS = Options()


def run_training(
    config: Config, splits: Splits, out: Path, options: Options = DEFAULT_OPTIONS, progress: Listener | None = None
) -> TrainingResult:
    """Train on `splits` and write to `out`: `model/`, `metrics.json`, `config.yaml`, `losses.csv`, `history.json`,
    `validation.csv`, `curves/`, `pictures/`, `checkpoints/`, `start.json` if it started from weights, and the files of
    the loggers.

    The classes and category ids of the dataset replace those of `config`. The same seed on the same machine gives the
    same weights. The dataset and the options are validated before the first step. Raises `DataError`, `ConfigError`,
    `CheckpointError`, `OutputError`, and `TrainingError` if a loss is not finite.
    """
    device = choose_device(options.device)
    with joined(device.type):
        return _train(config, splits, out, options, progress if rank() == 0 and progress else _ignore, device)


def _ignore(_event: Event) -> None:
    """Listener that ignores every event."""


def _train(
    config: Config, splits: Splits, out: Path, options: Options, progress: Listener, device: torch.device
) -> TrainingResult:
    begin = time.monotonic()
    check_loggers(options.loggers)
    resume = by_first(lambda: prepare_folder(out, options.resume))
    progress(Phase("reading the annotations"))
    dataset = read_dataset(splits, options)
    config = fit_to_data(config, dataset, options.semantic)
    limit = limit_of(options, config, dataset, begin)
    plan = None if limit is None else StepPlan(limit.steps)
    watch = watch_of(dataset, config, options, progress)
    validation = validation_of(out, config, splits, options, progress, watch, plan)
    progress(Phase("checking the dataset"))
    for warning in check_data(config, splits, options.semantic if isinstance(options.semantic, MapSources) else None):
        progress(Message(warning, warning=True))
    progress(Phase("building the model"))
    module = build_module(config, dataset, options, out, progress, plan)
    keeper = (
        []
        if limit is None or plan is None
        else [
            TimeKeeper(
                limit,
                plan,
                validation,
                module.steps_per_epoch,
                time_evaluation=evaluation_timer(config, splits, options),
                progress=progress,
            )
        ]
    )
    by_first(lambda: record_setting(out, config, options))
    progress(Phase("preparing the first step"))
    hyperparameters = {"seed": options.seed, **config.model_dump(mode="json")}
    with logging_to(options.loggers, out, hyperparameters, resume, progress) as (loggers, log):
        fit(
            module,
            watch.batches,
            callbacks_of(out, options, validation, progress, [*keeper, *log], watch),
            None if plan is not None else options.stop_epoch or config.training.epochs,
            device=device,
            precision=config.precision,
            clip_gradients=config.training.clip_gradients,
            accumulate=config.training.accumulate,
            resume=resume,
            unused_parameters=leaves_parameters_unused(config),
            loggers=loggers,
        )
    progress(Phase("saving the model"))
    reason = _reason(config, options, validation, keeper[0] if keeper else None, plan)
    return by_first(lambda: _finish(module.trained, config, out, validation, options, reason))


def record_setting(out: Path, config: Config, options: Options) -> None:
    """Write the whole configuration and, for a new training, the choices with their rules."""
    write_text(out / CONFIG, to_yaml(config))
    if options.choices and not options.resume:
        write_choices(out, options.choices)


def read_dataset(splits: Splits, options: Options) -> Dataset:
    """Read the training set with its semantic maps, if any; raises `DataError`."""
    dataset = read_coco(splits.train_annotations, splits.train_images, holes=splits.holes)
    if not len(dataset):
        raise DataError(f'{splits.train_annotations}: "images" is empty, so there is no image to train on')
    if isinstance(options.semantic, MapSources):
        dataset = with_semantic_maps(dataset, options.semantic)
    return dataset


def prepare_folder(out: Path, resume: bool) -> Path | None:
    """Create the run folder and return the checkpoint to resume from; None for a new training.

    Raises `OutputError` if the folder cannot be created, has no checkpoint to resume from, or contains another run.
    """
    last = out / CHECKPOINTS / LAST
    if resume:
        if not last.is_file():
            raise OutputError(
                f"{out} contains no training to resume ({CHECKPOINTS}/{LAST} is missing): remove --resume, or set "
                f"--out to the folder of the run"
            )
        return last
    if (out / LOSSES).exists() or (out / MODEL).exists():
        raise OutputError(f"{out} already contains a training: set --out to another folder, or add --resume")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {out}: {error.strerror}. Set --out to another folder") from error
    return None


def limit_of(options: Options, config: Config, dataset: Dataset, begin: float) -> TimeLimit | None:
    """Return the time limit of the options; without a plan, as many of the configuration's epochs as fit into it."""
    if options.minutes is None or options.limit is not None:
        return options.limit
    steps = config.training.epochs * steps_per_epoch(config, dataset, count())
    return TimeLimit(options.minutes, options.started or begin, steps, Costs(0.0), steps)


def watch_of(dataset: Dataset, config: Config, options: Options, progress: Listener) -> DataWatch:
    """Build the source of the batches, which measures the wait for them."""

    def make(epoch: int, done: int, workers: int) -> ImageLoader:
        return batches_of(dataset, config, options, epoch, done, workers)

    def decided(workers: int, rule: str) -> None:
        if workers:
            progress(Message(f"{workers} worker process{'' if workers == 1 else 'es'} from here on: {rule}"))

    workers = options.workers
    if workers == "auto" and options.transforms is not None and not can_be_sent(options.transforms):
        workers = 0  # a transform that cannot be pickled cannot be used by a worker
    return DataWatch(make, workers, decided=decided)


def evaluation_timer(config: Config, splits: Splits, options: Options) -> Callable[[nn.Module], float] | None:
    """Return the function that estimates the seconds of an evaluation of a detector from a few validation images."""
    annotations, images = splits.val_annotations, splits.val_images
    if annotations is None or images is None:
        return None
    dataset, maps = (
        read_coco(annotations, images),
        options.semantic if isinstance(options.semantic, MapSources) else None,
    )

    def losses(detector: nn.Module, part: Dataset) -> None:
        validation_losses(detector, config, validation_batches(part, config, maps))

    own = losses if options.validation_losses else None
    return lambda detector: time_evaluation(detector, config, dataset, TIMED_EVALUATION, own)


TIMED_EVALUATION = 2.0
"""Seconds of predictions from which the time of an evaluation is estimated during the training."""


def validation_of(
    out: Path,
    config: Config,
    splits: Splits,
    options: Options,
    progress: Listener,
    watch: DataWatch,
    plan: StepPlan | None = None,
) -> Validation:
    """Build the callback that evaluates and draws between epochs, which does nothing without a validation set. The
    validation files and categories are checked here.
    """
    annotations, images, training = splits.val_annotations, splits.val_images, config.training
    if annotations is None or images is None:
        return Validation(out, None, options.evaluate_every, training.epochs, plan=plan)
    match_categories(config.classes, read_annotations(annotations))
    dataset = read_coco(annotations, images, holes=splits.holes)
    sources = options.semantic if isinstance(options.semantic, MapSources) else None
    if options.validation_losses:
        validation_batches(dataset, config, sources)  # checks the maps before the first step

    def losses(detector: nn.Module) -> dict[str, float]:
        return validation_losses(detector, config, validation_batches(dataset, config, sources, watch.workers))

    def report(done: int, total: int) -> None:
        progress(EvaluationStep(done, total))

    def evaluate(detector: nn.Module) -> MetricValues:
        return evaluate_on_all_ranks(Predictor(detector, config), annotations, images, report, watch.workers)

    def draw(detector: nn.Module, folder: Path) -> None:
        draw_comparisons(Predictor(detector, config), dataset, folder, options.images)

    return Validation(
        out,
        evaluate,
        options.evaluate_every,
        training.epochs,
        losses=losses if options.validation_losses else None,
        draw=draw if options.images else None,
        keep=None
        if options.checkpoints is None
        else lambda detector: save_pretrained(detector, config, out / CHECKPOINTS / BEST),
        patience=training.early_stop,
        progress=progress,
        plan=plan,
    )


def build_module(
    config: Config,
    dataset: Dataset,
    options: Options,
    out: Path,
    progress: Listener,
    plan: StepPlan | None = None,
) -> TrainingModule:
    """Build the training module; the detector's initial weights depend only on the seed, or are `options.weights`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        detector = Detector(config, deepcopy(options.backbone))  # the caller's module stays as it is
    if options.weights is None and not options.resume:
        imagenet = start_from_imagenet(detector.backbone, config.backbone)
        for part in detector.children():
            if isinstance(part, RecursivePyramid):
                start_from_imagenet(part.backbone, config.backbone)
        if imagenet is not None:
            normalization = other_normalization(config)
            progress(Message(f"the backbone starts from {imagenet}" + (f"; {normalization}" if normalization else "")))
    if options.weights is not None and not options.resume:
        start = start_from(detector, load_model(options.weights), options.weights)
        by_first(lambda: write_json(out / START, asdict(start)))
        for line in start.lines():
            progress(Message(line))
    detector.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    training = config.training
    images, steps = training.batch_size * count() * training.accumulate, steps_per_epoch(config, dataset, count())
    objective = TrainingObjective(detector, config)
    return TrainingModule(detector, objective, training, steps, training.epochs, images, options.seed, plan)


def batches_of(
    dataset: Dataset, config: Config, options: Options, epoch: int, done: int, workers: int = 0
) -> ImageLoader:
    """Return the batches of one epoch without the first `done`."""
    size = config.training.batch_size
    return training_loader(
        dataset,
        config,
        options.seed,
        epoch,
        size,
        workers,
        first_step=done,
        rank=rank(),
        ranks=count(),
        transforms=options.transforms,
    )


def callbacks_of(
    out: Path,
    options: Options,
    validation: Validation,
    progress: Listener,
    more: Sequence[Callback],
    watch: DataWatch,
) -> list[Callback]:
    """Return the callbacks: losses, evaluation, `more` and, if enabled, checkpoints; then the user's own."""
    plan, waited = validation.plan, lambda: watch.waited
    callbacks: list[Callback] = [LossRecord(out / LOSSES, progress, plan=plan, waited=waited), validation, *more]
    if options.checkpoints is not None:
        callbacks.append(Checkpoints(out / CHECKPOINTS, options.checkpoints))
    return [*callbacks, *options.callbacks]


def _reason(
    config: Config, options: Options, validation: Validation, keeper: TimeKeeper | None, plan: StepPlan | None
) -> str:
    """Return why the training ended."""
    if validation.stopped:
        return f"AP has not improved for {config.training.early_stop} evaluations (training.early_stop)"
    if options.stop_epoch is not None or (keeper is not None and keeper.limit.stop < 1):
        return "the median best epoch of the folds is reached"
    if keeper is None or plan is None:
        return f"all {config.training.epochs} epochs are done"
    if keeper.out_of_time:
        return f"the time limit of {keeper.limit.minutes:g} minutes, before the last of {plan.steps} planned steps"
    if plan.steps == keeper.limit.most:
        return f"all {config.training.epochs} epochs are done, within the limit of {keeper.limit.minutes:g} minutes"
    return f"all {plan.steps} steps that fit {keeper.limit.minutes:g} minutes are done"


def _finish(
    detector: nn.Module, config: Config, out: Path, validation: Validation, options: Options, reason: str
) -> TrainingResult:
    """Write the model (the best one if it was kept, else the last) and the metrics of its evaluation."""
    history = read_history(out) if validation.evaluate is not None else []
    best = validation.keep is not None and bool(history)
    if best:
        config, weights = from_pretrained(out / CHECKPOINTS / BEST)
        save_pretrained(weights, config, out / MODEL)
    else:
        save_pretrained(detector, config, out / MODEL)
    draw_curves(out)
    metrics = None
    if history:
        entry = best_of(history) if best else history[-1]
        metrics = row_metrics(entry)
        which = {"epoch": entry["epoch"], "step": entry["step"], "is": "the best" if best else "the last"}
        write_json(out / METRICS, {**metrics, "model": which})
    result = None if metrics is None else Metrics(metrics)
    return TrainingResult(out, config, result, _steps(out), options.device, reason, options.backbone)


def _steps(out: Path) -> int:
    with (out / LOSSES).open(encoding="utf-8") as stream:
        return max(0, sum(1 for _ in stream) - 1)
