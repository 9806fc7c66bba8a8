"""`htc.train`: from a dataset to a trained model. Imports torch only after the options have been checked."""

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from htc.checkpoint.check import to_be_fetched
from htc.checkpoint.zoo import fetch
from htc.compatibility import check_torch
from htc.config import Config, Precision, Section
from htc.data.coco import read_splits
from htc.data.columns import table_of
from htc.data.formats.layouts import locate_splits
from htc.data.formats.map_rules import AUTO
from htc.data.held_out import fold_splits
from htc.data.semantic_maps import semantic_sources
from htc.extras import require
from htc.files import optional_path
from htc.ranks import here
from htc.run_folders import filling, folder_for
from htc.settings.layers import Setting
from htc.settings.python import Overrides, check_overrides, python_settings
from htc.training.display import LogFile, displaying
from htc.training.events import Downloading, Finished, Listener, Message, Phase, Planned
from htc.training.launch import on_first_process, run_in_processes
from htc.training.request import TrainingRequest
from htc.training.start import Start, choose_start

if TYPE_CHECKING:
    import torch
    from lightning import Callback
    from lightning.pytorch.loggers import Logger
    from torch import nn

    from htc.config import Backbone
    from htc.data.coco import Splits
    from htc.data.dataset import Dataset
    from htc.data.semantic_maps import MapSources
    from htc.data.user_transforms import Transforms
    from htc.training.plan import TrainingPlan
    from htc.training.result import TrainingResult

LOG = logging.getLogger("htc")
CONVERTED = "data"
"""The folder in the run folder that holds a dataset converted to COCO."""
LOG_FILE = "train.log"


@dataclass(frozen=True)
class PreparedTraining:
    """A prepared training: the files of its dataset, its run folder and its resolved configuration."""

    splits: "Splits"
    folder: Path
    plan: "TrainingPlan"


def train(
    data: "str | Path | Dataset | Mapping[str, Dataset] | None" = None,
    *,
    val_share: float | None = None,
    folds: int | None = None,
    train_annotations: str | Path | None = None,
    train_images: str | Path | None = None,
    val_annotations: str | Path | None = None,
    val_images: str | Path | None = None,
    label_maps: str = AUTO,
    coco_holes: Literal["on", "off"] = "on",
    preset: str | None = None,
    weights: str | Path | None = None,
    semantic: "Literal['auto', 'none'] | str | Path | MapSources | Mapping[str, Any]" = "auto",
    semantic_json: str | Path | None = None,
    semantic_panoptic: str | Path | None = None,
    semantic_instances: int | Literal["ids"] | None = None,
    out: str | Path | None = None,
    epochs: int | None = None,
    evaluate_every: int | None = None,
    max_time: float | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    percentile: tuple[float, float] | None = None,
    seed: int = 0,
    workers: "int | Literal['auto']" = "auto",
    resume: bool = False,
    checkpoint_steps: int | None = None,
    devices: int = 1,
    nodes: int = 1,
    device: "str | int | torch.device" = "auto",
    precision: Precision | Literal["auto"] | None = None,
    backbone: "nn.Module | Backbone | Mapping[str, Any] | None" = None,
    transforms: "Transforms | None" = None,
    callbacks: "Sequence[Callback]" = (),
    loggers: "Sequence[str | Logger]" = (),
    config: Config | str | Path | None = None,
    progress: bool | Listener = True,
    **overrides: Unpack[Overrides],
) -> "TrainingResult":
    """Train a model on a dataset and return it with its metrics and history.

    Without `preset`, the model, the input size, the anchors, the batch size and the number of epochs are chosen for
    the dataset, and each choice is reported with its rule.

    Args:
        data: a folder (COCO, YOLO, labelme, label maps and other formats), an `htc.Dataset`, or a dictionary of
            datasets with the keys "train" and "val".
        val_share: hold out this share of the training images (0..1) for validation, if there is no validation set.
        folds: cross-validation without validation images: AP with its spread over so many folds of the training images,
            and a model trained on all of them for the folds' median best epoch.
        train_annotations: a COCO annotation file, in place of `data`.
        train_images: the folder of its images.
        val_annotations: a COCO annotation file to evaluate on.
        val_images: the folder of its images.
        label_maps: how label maps are read: "auto" decides from the maps; "instances", "components" or "classes" says
            what a value, each of its connected regions, or both are, as in "components,background=255,void=none".
        coco_holes: "on": a polygon of COCO's JSON wholly inside another, of the opposite orientation, is a hole; "off":
            polygons are a union, as COCO's own metrics have them.
        preset: the model and its schedule (`htc.list_models()`).
        weights: start from these weights: a preset with released weights, a folder, a file, or "FILE#teacher" for one
            of several models in it; "coco", released COCO weights; "imagenet", ImageNet weights of the backbone;
            "none", random weights. `None`: for a training without `preset`, the best of these that is reachable and
            that the device can train. Layers that depend on the classes keep the rows of classes with the same name;
            the others start from random values.
        semantic: targets of the semantic branch: "auto" derives them from the instances, "none" removes the branch, a
            folder holds PNG maps; a dictionary changes the section `semantic` of the configuration.
        semantic_json: COCO panoptic annotations that describe the maps.
        semantic_panoptic: the folder of their PNGs, which are drawn over the maps of `semantic`.
        semantic_instances: draw the instances over the maps, class k (from 0) as this value + k, or "ids" for category
            id - 1.
        out: the run folder. `None`: a new folder under `runs/train`.
        epochs: passes over the training images.
        evaluate_every: epochs between two evaluations.
        max_time: minutes from the call to the model, within 5 %. They decide the number of steps and, unless you set
            them or a preset, the input size and the crop.
        batch_size: images of one process in a step.
        lr: learning rate. SGD scales it linearly with the images per step, `lr` being for 16; AdamW takes it as it is.
        percentile: the percentiles (0..100) of 16-bit and float images that become 0 and 255, as in (0.1, 99.9); sets
            `input.intensity`, which is stored with the weights. `None`: the configuration's.
        seed: the same seed on the same machine gives the same weights.
        workers: processes that load images; 0 loads them in the training process, "auto" decides by measuring the
            first steps.
        resume: continue the run in `out` exactly from its last checkpoint.
        checkpoint_steps: also write a checkpoint every `checkpoint_steps` steps.
        devices: processes on this machine that train together, each on its own GPU (or on the CPU).
        nodes: machines that train together; each needs MASTER_ADDR, MASTER_PORT and NODE_RANK in its environment.
        device: "auto", "cpu", "cuda", "cuda:1" or 1: the device to train on; "auto" uses a GPU if there is one.
        precision: "fp32", "bf16", or "auto" to measure which is faster here; `None`: the configuration's.
        backbone: a module (B, 3, H, W) -> four maps of strides 4 to 32 in place of the configured backbone; or a
            dictionary that changes the section `backbone` of the configuration.
        transforms: a torchvision v2 transform that is applied to each training image and its ground truth first.
        callbacks: Lightning callbacks. With several processes each must be picklable.
        loggers: "tensorboard", "wandb", "mlflow" or Lightning loggers.
        config: a YAML or JSON file of settings, or a whole configuration.
        progress: `True` shows the training, `False` nothing; a function receives the events of
            `htc.training.events`.
        **overrides: sections of the configuration, such as `inference={"max_detections": 300}`.

    Raises:
        DataError: the dataset cannot be used; the message names file, image and annotation.
        ConfigError: an option or a field of the configuration cannot be used.
        CheckpointError: the weights do not fit.
        OutputError: `out` cannot be written, or holds another run.
        TrainingError: a loss is not finite, or a process of the training ended.
        InstallationError: the extra `train`, or that of a logger, is not installed.
        TypeError: an option does not exist; the message names the nearest.

    Example:
        >>> result = htc.train("my_data", weights="htc_r50_fpn_20e_coco", max_time=60)
        >>> result.metrics.mask.ap
        0.383
        >>> result.model.predict("street.jpg").draw().save("out.png")
    """
    check_overrides(train, overrides)
    values: dict[str, Any] = {**overrides, "preset": preset}
    if isinstance(backbone, Mapping | Section):
        values, backbone = {**values, "backbone": backbone}, None
    if isinstance(semantic, Mapping | Section):
        values, semantic = {**values, "semantic": semantic}, "auto"
    request = TrainingRequest(
        settings=[
            *python_settings(config, values, "htc.train"),
            *schedule_settings(epochs, batch_size, lr),
            *percentile_settings(percentile, "percentile"),
        ],
        data=data,
        val_share=val_share,
        folds=folds,
        train_annotations=train_annotations,
        train_images=train_images,
        val_annotations=val_annotations,
        val_images=val_images,
        label_maps=label_maps,
        coco_holes=coco_holes,
        weights=weights,
        semantic=semantic_sources(semantic, semantic_json, semantic_panoptic, semantic_instances, ("auto", "none")),
        out=out,
        evaluate_every=evaluate_every,
        max_time=max_time,
        seed=seed,
        workers=workers,
        resume=resume,
        checkpoint_steps=checkpoint_steps,
        devices=devices,
        nodes=nodes,
        device=device,
        precision=precision,
        backbone=backbone,
        transforms=transforms,
        callbacks=tuple(callbacks),
        loggers=(loggers,) if isinstance(loggers, str) else tuple(loggers),
    )
    with displaying(progress) as listener:
        return run_request(request, listener)


def schedule_settings(epochs: int | None, batch_size: int | None, lr: float | None, prefix: str = "") -> list[Setting]:
    """Return the settings that the options epochs, batch_size and lr set; `prefix` is "--" if they are flags."""
    given = {
        "epochs": (("training", "epochs"), epochs),
        "batch_size": (("training", "batch_size"), batch_size),
        "lr": (("training", "optimizer", "lr"), lr),
    }
    return [
        Setting(path, value, f"{prefix}{name.replace('_', '-') if prefix else name}")
        for name, (path, value) in given.items()
        if value is not None
    ]


def percentile_settings(percentile: tuple[float, float] | None, name: str) -> list[Setting]:
    """Return the settings that the option `percentile`, called `name`, sets."""
    if percentile is None:
        return []
    if len(percentile) != 2:
        raise ConfigError(f"{name} is {percentile}: give two numbers from 0 to 100, as in (0.1, 99.9)")
    values = ("percentile", *percentile)
    return [
        Setting(("input", "intensity", field), value, name)
        for field, value in zip(("kind", "low", "high"), values, strict=True)
    ]


def run_request(request: TrainingRequest, listener: Listener) -> "TrainingResult":
    """Train as `htc.train` does; start one process for each device if there are several."""
    request.check()
    request.check_data()
    require("train", "training")
    if request.starts_processes:
        return run_in_processes(partial(run_request, request), request.devices, request.nodes, listener)
    with preparing(request, listener) as prepared, _logged(prepared.folder, listener) as listener:
        plan = prepared.plan
        choices = plan.choices()
        counts = (len(plan.dataset), len(table_of(plan.dataset.images).labels))
        listener(Planned(*counts, len(plan.dataset.classes), choices, plan.options.minutes))
        options = replace(plan.options, evaluate_every=plan.evaluate_every, choices=choices)
        from htc.training.folds import train_folds
        from htc.training.run import run_training

        if request.folds is None:
            result = run_training(plan.config, plan.splits, prepared.folder, options, listener)
        else:
            folds, each = request.folds, options.minutes
            options = replace(options, minutes=None if each is None else each * (folds + 1))
            result = train_folds(plan.config, plan.fitted, prepared.splits, prepared.folder, folds, options, listener)
        next_step, command = suggestion(request, result)
        listener(Finished(result.ended, str(result.folder), str(result.model_folder), next_step, command))
        return result


@contextmanager
def _logged(folder: Path, listener: Listener) -> Iterator[Listener]:
    """Yield a listener that also writes the lines of the training to a file in the run folder, on the first process."""
    if here().rank > 0:
        yield listener
        return
    log = LogFile(folder / LOG_FILE, listener)
    try:
        yield log
    finally:
        log.close()


def suggestion(request: TrainingRequest, result: "TrainingResult") -> tuple[str, str]:
    """Return the next step that the result of a training suggests, and its command."""
    out, history = shlex.quote(str(result.folder)), result.history
    if request.folds is not None:
        return "predict with the model of all images", f"htc predict IMAGE --model {out}"
    data = "" if not isinstance(request.data, str | Path) else f" --data {shlex.quote(str(request.data))}"
    if result.metrics is None:
        return "without validation images there is no AP; evaluate by cross-validation", f"htc train{data} --folds 5"
    precisions = history["segm.AP" if result.metrics.mask is not None else "bbox.AP"]
    improving = len(precisions) > 1 and precisions[-1] == max(precisions)
    if improving and request.max_time is not None:
        more = f"--out {out} --resume --max-time {2 * request.max_time:g}"
        return "AP was still rising; continue with twice the time", f"htc train{data} {more}"
    if improving:
        more = f"--out {out} --resume --epochs {2 * result.config.training.epochs}"
        return "AP was still rising; continue with twice the epochs", f"htc train{data} {more}"
    html = shlex.quote(str(result.folder / "report.html"))
    return "see where the model errs", f"htc evaluate {out}{data} --html {html}"


@contextmanager
def preparing(request: TrainingRequest, listener: Listener) -> Iterator[PreparedTraining]:
    """Find or convert the dataset, download the weights and resolve the configuration; only the first process writes
    files. A new run folder that holds nothing but the converted dataset at the end is removed.
    """
    require("train", "training")
    folder = on_first_process(str(request.device), lambda: _run_folder(request))
    with filling(folder, CONVERTED):
        splits = on_first_process(str(request.device), lambda: _located(request, folder, listener))
        yield PreparedTraining(splits, folder, _plan(request, splits, folder, listener))


def _plan(request: TrainingRequest, splits: "Splits", folder: Path, listener: Listener) -> "TrainingPlan":
    listener(Phase("loading PyTorch"))
    check_torch()
    from htc.training.checkpoints import Every
    from htc.training.plan import plan_training
    from htc.training.run import Options

    minutes = request.max_time
    if request.folds is not None:  # the plan is that of one training on all but a fold
        first = fold_splits(splits, request.folds, folder / CONVERTED)[0]
        splits = replace(splits, val_annotations=first.val_annotations, val_images=first.val_images)
        minutes = None if minutes is None else minutes / (request.folds + 1)
    options = Options(
        seed=request.seed,
        device=str(request.device),
        minutes=minutes,
        started=request.started,
        resume=request.resume,
        semantic=request.semantic,
        checkpoints=Every(steps=request.checkpoint_steps),
        workers=request.workers,
        backbone=request.backbone,
        transforms=request.transforms,
        callbacks=tuple(request.callbacks),
        loggers=tuple(request.loggers),
    )
    # only the first process times the precisions: the results of several processes could differ
    settings = [*request.settings, *on_first_process(str(request.device), lambda: _precision(request, listener))]
    start = None if request.resume else on_first_process(str(request.device), lambda: _start(request, listener))
    settings += [] if start is None else start.settings
    measuring = request.max_time is not None and not request.resume
    listener(Phase("choosing the configuration" + (" by measuring the first steps" if measuring else "")))
    return plan_training(
        splits, folder, settings=settings, options=options, evaluate_every=request.evaluate_every, start=start
    )


def _start(request: TrainingRequest, listener: Listener) -> Start:
    """Choose the weights to start from, and download them."""
    from htc.inference.device import choose_device
    from htc.training.auto_config import fits, total_memory

    device = choose_device(request.device)
    memory = total_memory(device)
    return choose_start(
        None if request.weights is None else str(request.weights),
        request.settings,
        on_gpu=device.type == "cuda",
        fits=lambda config: fits(config, memory),
        own_backbone=request.backbone is not None,
        listener=listener,
    )


def _run_folder(request: TrainingRequest) -> Path:
    out = optional_path(request.out)
    return out if request.resume and out is not None else folder_for("train", request.name, out)


def _located(request: TrainingRequest, folder: Path, listener: Listener) -> "Splits":
    """Return the dataset as COCO files; download the weights to start from into the cache."""
    listener(Phase("reading the dataset"))
    splits = locate_splits(
        data=request.data,
        train_annotations=optional_path(request.train_annotations),
        train_images=optional_path(request.train_images),
        val_annotations=optional_path(request.val_annotations),
        val_images=optional_path(request.val_images),
        val_share=request.val_share,
        label_maps=request.label_maps,
        converted=folder / CONVERTED,
        say=lambda line: listener(Message(line)),
    )
    splits = replace(splits, holes=request.coco_holes == "on")
    name = None if request.weights is None else str(request.weights)
    if name is not None and to_be_fetched(name):
        read_splits(splits)  # report faults in the dataset before a long download
        listener(Phase(f"downloading the weights of {name}"))
        fetch(name, progress=lambda done, total: listener(Downloading(name, done, total)))
    return splits


def _precision(request: TrainingRequest, listener: Listener) -> list[Setting]:
    """Return the setting for `precision`: `auto` is timed once, and a resumed run keeps its precision."""
    if request.precision is None or (request.precision == "auto" and request.resume):
        return []
    from htc.inference.device import choose_device
    from htc.inference.precision import resolve_precision

    resolved = resolve_precision(request.precision, choose_device(request.device))
    if request.precision == "auto" and not LOG.isEnabledFor(logging.INFO):  # the log has it, with both speeds
        listener(Message(f"precision auto: {resolved}"))
    return [Setting(("precision",), resolved, "precision")]
