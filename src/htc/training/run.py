"""A whole training: data and configuration in; a folder with the model, its numbers, records and curves out."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from htc.checkpoint.load import load_model
from htc.checkpoint.native import save_pretrained
from htc.config import Config
from htc.data.coco import Splits, read_coco
from htc.data.loader import training_loader
from htc.data.records import Dataset
from htc.errors import DataError, OutputError
from htc.evaluation.coco import Metrics
from htc.evaluation.files import read_annotations
from htc.evaluation.run import evaluate_model, match_categories
from htc.files import write_json
from htc.inference.load import choose_device
from htc.inference.predictor import Predictor
from htc.model.detector import Detector
from htc.training.engine import Limits, fit
from htc.training.module import TrainingModule
from htc.training.objective import TrainingObjective
from htc.training.record import LossRecord, Progress
from htc.training.start import fit_to_data, start_from
from htc.training.validation import LOSSES, Evaluate, Validation, draw_curves, read_history
from htc.types import Batch

MODEL, METRICS, CHECKPOINTS = "model", "metrics.json", "checkpoints"


@dataclass(frozen=True)
class TrainingResult:
    """What a training left behind."""

    folder: Path
    model: Path
    """Native folder: `htc.load(model)`."""
    config: Config
    metrics: Metrics | None
    """Of the trained model on the validation pictures; None without them."""
    steps: int


@dataclass(frozen=True)
class Options:
    """How a training is carried out; what is learned, and how, is the configuration's."""

    seed: int = 0
    device: str = "auto"
    minutes: float | None = None
    """Stop after so many minutes of training."""
    resume: bool = False
    """Go on from the last whole epoch of the training in the same folder."""
    weights: str | None = None
    """Start from these weights: a preset's name, a folder or a file. Layers that depend on the classes may differ."""
    semantic: Literal["auto", "none"] | Path = "auto"
    """Semantic targets: derived from the instances, no semantic branch, or a folder of PNG maps."""
    evaluate_every: int = 1
    """Epochs between two evaluations; the last epoch always has one."""
    checkpoints: bool = True
    """Keep what `resume` needs."""
    workers: int = 0
    """Processes that prepare batches."""


def train(config: Config, splits: Splits, out: Path, options: Options = Options(), progress: Progress | None = None) -> TrainingResult:
    """Trains on `splits` and leaves in `out`: `model/`, `metrics.json`, `losses.csv`, `history.json`, `curves/`, `checkpoints/`.

    The configuration takes the data's classes and ids. The same seed on the same machine gives the same numbers. Everything
    that can be checked is checked before the first step. Raises `DataError`, `ConfigError`, `CheckpointError`, `OutputError`,
    and `TrainingError` when a loss is not finite.
    """
    resume = prepare_folder(out, options.resume)
    dataset = read_coco(splits.train_annotations, splits.train_images)
    if not len(dataset):
        raise DataError(f"{splits.train_annotations} lists no picture: there is nothing to train on")
    config = fit_to_data(config, dataset, options.semantic)
    evaluate = evaluation_of(config, splits)
    module = build_module(config, dataset, options)
    fit(
        module,
        lambda epoch: batches_of(dataset, config, options, epoch),
        callbacks_of(out, config, options, evaluate, progress),
        Limits(config.training.epochs, options.minutes),
        device=choose_device(options.device).type,
        precision=config.precision,
        clip_gradients=config.training.clip_gradients,
        resume=resume,
    )
    return _finish(module.trained, config, out, with_metrics=evaluate is not None)


def prepare_folder(out: Path, resume: bool) -> Path | None:
    """Makes the folder; the checkpoint to resume from, or None for a new training.

    Raises `OutputError` if the folder cannot be made, or holds a training that is not to be resumed, or none to resume.
    """
    last = out / CHECKPOINTS / "last.ckpt"
    if resume:
        if not last.is_file():
            raise OutputError(f"{out} holds no training to resume ({CHECKPOINTS}/last.ckpt is missing): leave out --resume, or give its folder as --out")
        return last
    if (out / LOSSES).exists() or (out / MODEL).exists():
        raise OutputError(f"{out} holds a training already: give another --out, or --resume to go on with it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {out}: {error.strerror}: give another --out") from error
    return None


def evaluation_of(config: Config, splits: Splits) -> Evaluate | None:
    """How to measure a detector on the validation pictures, whose files and categories are checked now; None without them."""
    annotations, images = splits.val_annotations, splits.val_images
    if annotations is None or images is None:
        return None
    match_categories(config.classes, read_annotations(annotations))
    read_coco(annotations, images)

    def evaluate(detector: nn.Module) -> Metrics:
        metrics, _ = evaluate_model(Predictor(detector, config), annotations, images)
        return metrics

    return evaluate


def build_module(config: Config, dataset: Dataset, options: Options) -> TrainingModule:
    """The detector with its first weights, a pure function of the seed (or the given ones), and all that trains it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        detector = Detector(config)
    if options.weights is not None:
        start_from(detector, load_model(options.weights).state_dict, options.weights)
    detector.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    training = config.training
    steps = ceil(len(dataset) / training.batch_size)
    return TrainingModule(detector, TrainingObjective(detector, config), training, steps, training.epochs, training.batch_size)


def batches_of(dataset: Dataset, config: Config, options: Options, epoch: int) -> Iterable[Batch]:
    """One epoch's batches."""
    maps = options.semantic if isinstance(options.semantic, Path) else None
    return training_loader(dataset, config, options.seed, epoch, config.training.batch_size, options.workers, semantic_maps=maps)


def callbacks_of(out: Path, config: Config, options: Options, evaluate: Evaluate | None, progress: Progress | None) -> list[Callback]:
    """Record, evaluation and, where wanted, checkpoints."""
    callbacks: list[Callback] = [LossRecord(out / LOSSES, progress), Validation(out, evaluate, options.evaluate_every, config.training.epochs)]
    if options.checkpoints:
        place = {"dirpath": out / CHECKPOINTS, "filename": "last", "enable_version_counter": False}
        callbacks.append(ModelCheckpoint(**place, save_top_k=1, save_on_train_epoch_end=True))
    return callbacks


def _finish(detector: nn.Module, config: Config, out: Path, *, with_metrics: bool) -> TrainingResult:
    """Writes the model and the last evaluation's numbers."""
    model = save_pretrained(detector, config, out / MODEL)
    draw_curves(out)
    metrics = None
    if with_metrics and (history := read_history(out)):
        metrics = {kind: values for kind, values in history[-1].items() if kind not in ("epoch", "step")}
        write_json(out / METRICS, metrics)
    return TrainingResult(out, model, config, metrics, steps=_steps(out))


def _steps(out: Path) -> int:
    with (out / LOSSES).open(encoding="utf-8") as stream:
        return max(0, sum(1 for _ in stream) - 1)
