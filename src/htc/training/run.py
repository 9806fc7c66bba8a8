"""A whole training: data and configuration in; a folder with the model, its metrics, records and curves out.

What is learned, and how, is the configuration; how a training is carried out (seed, device, resume, checkpoints,
evaluations) is `Options`.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from math import ceil
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
from htc.data.epochs import batches_per_epoch
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
from htc.training.finetune import fit_to_data, other_colors, start_from
from htc.training.history import LOSSES, best_of, draw_curves, read_history, row_metrics
from htc.training.loggers import check_loggers
from htc.training.metric_log import logging_to
from htc.training.module import TrainingLimits, TrainingModule, fit
from htc.training.objective import TrainingObjective
from htc.training.record import LossRecord
from htc.training.result import MODEL, TrainingResult
from htc.training.validation import BEST, Validation, evaluate_on_all_ranks, validation_batches, validation_losses


@dataclass(frozen=True)
class Options:
    """How a training is carried out; what is learned, and how, is the configuration's."""

    seed: int = 0
    device: str = "auto"
    minutes: float | None = None
    """Stop after so many minutes of training."""
    resume: bool = False
    """Go on from the last checkpoint of the training in the same folder, exactly, also in the middle of an epoch."""
    weights: str | None = None
    """Start from these weights: a preset's name, a folder or a file. Layers that depend on the classes may differ."""
    semantic: Literal["auto", "none"] | MapSources = "auto"
    """Semantic targets: derived from the instances, no semantic branch, or maps on the disk."""
    evaluate_every: int = 1
    """Epochs between two evaluations; the last epoch always has one."""
    validation_losses: bool = True
    """Compute every loss term on the validation images at each evaluation."""
    images: int = 6
    """Validation images to draw, ground truth beside prediction, at each best evaluation and at the last."""
    loggers: tuple[str | Logger, ...] = ()
    """Where to log losses, metrics and hyperparameters, besides the files of the run folder: `tensorboard`, `wandb`,
    `mlflow`, or Lightning loggers.
    """
    callbacks: tuple[Callback, ...] = ()
    """The user's Lightning callbacks, called after ours. Resuming restores their state where it consists of numbers,
    strings, tensors and containers of them.
    """
    choices: tuple[Choice, ...] = ()
    """What was chosen for this data and by which rule, for the record."""
    checkpoints: Every | None = EVERY_MINUTE
    """When what `resume` needs is written, besides the end of every epoch; None: never."""
    workers: int = 0
    """Processes that prepare batches."""
    backbone: nn.Module | None = None
    """The user's own backbone, in place of the configured one."""
    transforms: Transforms | None = None
    """The user's own transform of each training image and its ground truth."""


METRICS, CHECKPOINTS, CONFIG, START = "metrics.json", "checkpoints", "config.yaml", "start.json"
DEFAULT_OPTIONS = Options()


def run_training(
    config: Config, splits: Splits, out: Path, options: Options = DEFAULT_OPTIONS, progress: Listener | None = None
) -> TrainingResult:
    """Train on `splits` and leave in `out`: `model/`, `metrics.json`, `config.yaml`, `losses.csv`, `history.json`,
    `validation.csv`, `curves/`, `images/`, `checkpoints/`, `start.json` if it started from weights, and what
    the loggers write.

    The configuration takes the data's classes and ids. The same seed on the same machine gives the same numbers.
    Everything that can be checked is checked before the first step. Raises `DataError`, `ConfigError`,
    `CheckpointError`, `OutputError`, and `TrainingError` when a loss is not finite.
    """
    device = choose_device(options.device)
    with joined(device.type):
        return _train(config, splits, out, options, progress if rank() == 0 and progress else _ignore, device)


def _ignore(_event: Event) -> None:
    """The listener where nobody listens."""


def _train(
    config: Config, splits: Splits, out: Path, options: Options, progress: Listener, device: torch.device
) -> TrainingResult:
    check_loggers(options.loggers)
    resume = by_first(lambda: prepare_folder(out, options.resume))
    progress(Phase("reading the annotations"))
    dataset = read_dataset(splits, options)
    config = fit_to_data(config, dataset, options.semantic)
    validation = validation_of(out, config, splits, options, progress)
    progress(Phase("checking the dataset"))
    for warning in check_data(config, splits, options.semantic if isinstance(options.semantic, MapSources) else None):
        progress(Message(warning, warning=True))
    progress(Phase("building the model"))
    module = build_module(config, dataset, options, out, progress)
    by_first(lambda: record_setting(out, config, options))
    progress(Phase("preparing the first step"))
    hyperparameters = {"seed": options.seed, **config.model_dump(mode="json")}
    with logging_to(options.loggers, out, hyperparameters, resume, progress) as (loggers, log):
        fit(
            module,
            lambda epoch, done: batches_of(dataset, config, options, epoch, done),
            callbacks_of(out, options, validation, progress, log),
            TrainingLimits(config.training.epochs, options.minutes),
            device=device,
            precision=config.precision,
            clip_gradients=config.training.clip_gradients,
            accumulate=config.training.accumulate,
            resume=resume,
            unused_parameters=leaves_parameters_unused(config),
            loggers=loggers,
        )
    progress(Phase("saving the model"))
    return by_first(lambda: _finish(module.trained, config, out, validation, options))


def record_setting(out: Path, config: Config, options: Options) -> None:
    """Writes the whole configuration and, of a new training, what in it was chosen."""
    write_text(out / CONFIG, to_yaml(config))
    if options.choices and not options.resume:
        write_choices(out, options.choices)


def read_dataset(splits: Splits, options: Options) -> Dataset:
    """The training part with its semantic maps, where there are some; raises `DataError`."""
    dataset = read_coco(splits.train_annotations, splits.train_images)
    if not len(dataset):
        raise DataError(f"{splits.train_annotations} lists no image: there is nothing to train on")
    if isinstance(options.semantic, MapSources):
        dataset = with_semantic_maps(dataset, options.semantic)
    return dataset


def prepare_folder(out: Path, resume: bool) -> Path | None:
    """Makes the folder; the checkpoint to resume from, or None for a new training.

    Raises `OutputError` if the folder cannot be made, or holds a training that is not to be resumed, or none to resume.
    """
    last = out / CHECKPOINTS / LAST
    if resume:
        if not last.is_file():
            raise OutputError(
                f"{out} holds no training to resume ({CHECKPOINTS}/{LAST} is missing): leave out --resume, or give "
                f"its folder as --out"
            )
        return last
    if (out / LOSSES).exists() or (out / MODEL).exists():
        raise OutputError(f"{out} holds a training already: give another --out, or --resume to go on with it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {out}: {error.strerror}: give another --out") from error
    return None


def validation_of(out: Path, config: Config, splits: Splits, options: Options, progress: Listener) -> Validation:
    """What is measured and drawn between epochs; the validation files and categories are checked now. Nothing
    without them.
    """
    annotations, images, training = splits.val_annotations, splits.val_images, config.training
    if annotations is None or images is None:
        return Validation(out, None, options.evaluate_every, training.epochs)
    match_categories(config.classes, read_annotations(annotations))
    dataset = read_coco(annotations, images)
    sources = options.semantic if isinstance(options.semantic, MapSources) else None
    batches = validation_batches(dataset, config, sources, options.workers) if options.validation_losses else None

    def tell(done: int, total: int) -> None:
        progress(EvaluationStep(done, total))

    def evaluate(detector: nn.Module) -> MetricValues:
        return evaluate_on_all_ranks(Predictor(detector, config), annotations, images, tell, options.workers)

    def draw(detector: nn.Module, folder: Path) -> None:
        draw_comparisons(Predictor(detector, config), annotations, images, folder, options.images)

    return Validation(
        out,
        evaluate,
        options.evaluate_every,
        training.epochs,
        losses=None if batches is None else lambda detector: validation_losses(detector, config, batches),
        draw=draw if options.images else None,
        keep=None
        if options.checkpoints is None
        else lambda detector: save_pretrained(detector, config, out / CHECKPOINTS / BEST),
        patience=training.early_stop,
        progress=progress,
    )


def build_module(config: Config, dataset: Dataset, options: Options, out: Path, progress: Listener) -> TrainingModule:
    """The detector with its first weights, a pure function of the seed (or the given ones), and all that trains it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        detector = Detector(config, deepcopy(options.backbone))  # the caller's module stays as it is
    if options.weights is None and not options.resume:
        imagenet = start_from_imagenet(detector.backbone, config.backbone)
        for part in detector.children():
            if isinstance(part, RecursivePyramid):
                start_from_imagenet(part.backbone, config.backbone)
        if imagenet is not None:
            colors = other_colors(config)
            progress(Message(f"the backbone starts from {imagenet}" + (f"; {colors}" if colors else "")))
    if options.weights is not None:
        start = start_from(detector, load_model(options.weights), options.weights)
        by_first(lambda: write_json(out / START, asdict(start)))
        for line in start.lines():
            progress(Message(line))
    detector.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    training = config.training
    together = training.batch_size * count()
    images, steps = (
        together * training.accumulate,
        ceil(batches_per_epoch(dataset, training.sampling, together) / training.accumulate),
    )
    return TrainingModule(
        detector, TrainingObjective(detector, config), training, steps, training.epochs, images, options.seed
    )


def batches_of(dataset: Dataset, config: Config, options: Options, epoch: int, done: int) -> ImageLoader:
    """One epoch's batches without the first `done`."""
    size, workers = config.training.batch_size, options.workers
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
    out: Path, options: Options, validation: Validation, progress: Listener, log: Sequence[Callback] = ()
) -> list[Callback]:
    """Record, evaluation, `log` and, where wanted, checkpoints; then the user's own."""
    callbacks: list[Callback] = [LossRecord(out / LOSSES, progress), validation, *log]
    if options.checkpoints is not None:
        callbacks.append(Checkpoints(out / CHECKPOINTS, options.checkpoints))
    return [*callbacks, *options.callbacks]


def _finish(detector: nn.Module, config: Config, out: Path, validation: Validation, options: Options) -> TrainingResult:
    """Write the model, the best where one was kept, else the last, and the metrics of its evaluation."""
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
    found = None if metrics is None else Metrics(metrics)
    return TrainingResult(out, config, found, _steps(out), options.device, options.backbone)


def _steps(out: Path) -> int:
    with (out / LOSSES).open(encoding="utf-8") as stream:
        return max(0, sum(1 for _ in stream) - 1)
