"""`htc.train`: from a dataset to a trained model. Imports torch only when the options have been checked."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from htc.checkpoint.check import check_weights, to_be_fetched
from htc.checkpoint.zoo import fetch
from htc.compatibility import check_torch
from htc.config import Config, Precision
from htc.data.coco import read_splits
from htc.data.formats.layouts import locate_splits
from htc.data.semantic_maps import semantic_sources
from htc.errors import ConfigError
from htc.extras import require
from htc.presets import DEFAULT_PRESET
from htc.ranks import here
from htc.run_folders import filling, folder_for
from htc.settings.layers import Setting, names_preset, resolve
from htc.settings.python import Overrides, check_overrides, python_settings
from htc.training.display import displaying
from htc.training.events import Downloading, Listener, Message, Phase, Planned
from htc.training.launch import check_can_be_sent, on_first_process, run_in_processes
from htc.training.loggers import check_loggers

if TYPE_CHECKING:
    import torch
    from lightning import Callback
    from lightning.pytorch.loggers import Logger
    from torch import nn

    from htc.data.coco import Splits
    from htc.data.dataset import Dataset
    from htc.data.semantic_maps import MapSources
    from htc.data.user_transforms import Transforms
    from htc.training.plan import TrainingPlan
    from htc.training.result import TrainingResult


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """The options of `htc.train`, which documents them; `settings` are those of the configuration."""

    settings: Sequence[Setting] = ()
    data: "str | Path | Dataset | Mapping[str, Dataset] | None" = None
    val_share: float | None = None
    train_annotations: str | Path | None = None
    train_images: str | Path | None = None
    val_annotations: str | Path | None = None
    val_images: str | Path | None = None
    weights: str | Path | None = None
    semantic: "Literal['auto', 'none'] | MapSources" = "auto"
    out: str | Path | None = None
    evaluate_every: int | None = None
    max_time: float | None = None
    seed: int = 0
    workers: int = 0
    resume: bool = False
    checkpoint_steps: int | None = None
    devices: int = 1
    nodes: int = 1
    device: "str | int | torch.device" = "auto"
    precision: Precision | Literal["auto"] | None = None
    backbone: "nn.Module | None" = None
    transforms: "Transforms | None" = None
    callbacks: "Sequence[Callback]" = ()
    loggers: "Sequence[str | Logger]" = ()

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return max(self.devices * self.nodes, here().ranks)

    @property
    def has_data(self) -> bool:
        """Whether any data is named."""
        return self.data is not None or self.train_annotations is not None

    def check(self) -> Config:
        """Raise `ConfigError` for options that cannot be used, before any data is read; the configuration so far."""
        given = resolve(self.settings, DEFAULT_PRESET)
        for name, least in {"devices": 1, "nodes": 1, "workers": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}: give {least} or more")
        for name in ("evaluate_every", "checkpoint_steps", "max_time"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}: give a value above 0")
        if self.resume and self.out is None:
            raise ConfigError("resume needs out, the folder of the run to resume (--resume --out DIR)")
        if self.devices > 1 and str(self.device) not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"devices is {self.devices} and device is {self.device}: several processes take the devices 0 to "
                f"{self.devices - 1}; give device cuda or cpu, and select GPUs with CUDA_VISIBLE_DEVICES"
            )
        if self.weights is not None:
            check_weights(str(self.weights))
        check_loggers(self.loggers)
        if self.transforms is not None and not callable(self.transforms):
            raise ConfigError(f"transforms is a {type(self.transforms).__name__}: give a function (image, target)")
        for one in self.callbacks:
            if not callable(getattr(one, "on_train_start", None)):  # as Lightning's are; its import would take seconds
                raise ConfigError(f"callbacks: {one!r} is no Lightning callback")
        if self.ranks > 1:
            check_can_be_sent({"transforms": self.transforms, "backbone": self.backbone}, self.callbacks, self.loggers)
        return given

    @property
    def name(self) -> str:
        """The run's name: the preset's where one is named, else that of the data."""
        source = self.data if isinstance(self.data, str | Path) else self.train_annotations
        if names_preset(self.settings) or source is None:
            return resolve(self.settings, DEFAULT_PRESET).preset if names_preset(self.settings) else "dataset"
        path = Path(source).absolute()
        return path.stem if path.suffix else path.name


@dataclass(frozen=True)
class PreparedTraining:
    """A training that is about to begin: where its data are, its folder and its resolved configuration."""

    splits: "Splits"
    folder: Path
    plan: "TrainingPlan"


def train(
    data: "str | Path | Dataset | Mapping[str, Dataset] | None" = None,
    *,
    val_share: float | None = None,
    train_annotations: str | Path | None = None,
    train_images: str | Path | None = None,
    val_annotations: str | Path | None = None,
    val_images: str | Path | None = None,
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
    seed: int = 0,
    workers: int = 0,
    resume: bool = False,
    checkpoint_steps: int | None = None,
    devices: int = 1,
    nodes: int = 1,
    device: "str | int | torch.device" = "auto",
    precision: Precision | Literal["auto"] | None = None,
    backbone: "nn.Module | Mapping[str, Any] | None" = None,
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
        data: a folder (COCO, YOLO, labelme or label maps), an `htc.Dataset`, or a dictionary of datasets with the
            keys "train" and "val".
        val_share: hold out this share of the training images (0..1) for validation, where there are no others.
        train_annotations: a COCO annotation file, in place of `data`.
        train_images: the folder of its images.
        val_annotations: a COCO annotation file to evaluate on.
        val_images: the folder of its images.
        preset: the model and its schedule (`htc.list_models()`).
        weights: start from these weights: a preset with released weights, a folder or a file. Layers that depend on
            the classes keep the rows of classes with the same name; the others start from random values.
        semantic: targets of the semantic branch: "auto" derives them from the instances, "none" removes the branch, a
            folder holds PNG maps; a dictionary changes the section `semantic` of the configuration.
        semantic_json: COCO panoptic annotations that say how to read the maps.
        semantic_panoptic: the folder of their PNGs, which are laid over the maps of `semantic`.
        semantic_instances: draw the instances over the maps, class k (from 0) as this value + k, or "ids" for category
            id - 1.
        out: the run folder. `None`: a new folder under `runs/train`.
        epochs: passes over the training images.
        evaluate_every: epochs between two evaluations.
        max_time: stop after this many minutes of training.
        batch_size: images of one process in a step.
        lr: learning rate. SGD scales it linearly with the images per step, `lr` being for 16; AdamW takes it as it is.
        seed: the same seed on the same machine gives the same weights.
        workers: processes that load images; 0 loads them in the training process.
        resume: continue the run in `out` exactly from its last checkpoint.
        checkpoint_steps: also write a checkpoint after each so many steps.
        devices: processes on this machine that train together, each on its own GPU (or on the CPU).
        nodes: machines that train together; each needs MASTER_ADDR, MASTER_PORT and NODE_RANK in its environment.
        device: "auto", "cpu", "cuda", "cuda:1" or 1: where to train; "auto" takes a GPU if there is one.
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
    if isinstance(backbone, Mapping):
        values, backbone = {**values, "backbone": backbone}, None
    if isinstance(semantic, Mapping):
        values, semantic = {**values, "semantic": semantic}, "auto"
    request = TrainingRequest(
        settings=[*python_settings(config, values, "htc.train"), *schedule_settings(epochs, batch_size, lr)],
        data=data,
        val_share=val_share,
        train_annotations=train_annotations,
        train_images=train_images,
        val_annotations=val_annotations,
        val_images=val_images,
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
    """The settings that options of their own stand for; `prefix` is "--" where these are flags."""
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


def run_request(request: TrainingRequest, listener: Listener) -> "TrainingResult":
    """Train as `htc.train` does; with several devices in processes that are started here."""
    request.check()
    require("train", "training")
    if request.devices * request.nodes > 1 and here().ranks == 1:
        return run_in_processes(partial(run_request, request), request.devices, request.nodes, listener)
    prepared = prepare(request, listener)
    plan = prepared.plan
    choices = plan.choices()
    counts = (len(plan.dataset), sum(len(record.instances) for record in plan.dataset.images))
    listener(Planned(*counts, len(plan.dataset.classes), choices, request.max_time))
    options = replace(plan.options, evaluate_every=plan.evaluate_every, choices=choices)
    from htc.training.run import run_training

    with filling(prepared.folder):
        return run_training(plan.config, prepared.splits, prepared.folder, options, listener)


def prepare(request: TrainingRequest, listener: Listener) -> PreparedTraining:
    """Find or convert the data, fetch the weights and resolve the configuration; of several processes the first does
    what writes files.
    """
    require("train", "training")
    folder, splits = on_first_process(str(request.device), lambda: _located(request, listener))
    listener(Phase("loading PyTorch"))
    check_torch()
    from htc.training.checkpoints import Every
    from htc.training.plan import plan_training
    from htc.training.run import Options

    options = Options(
        seed=request.seed,
        device=str(request.device),
        minutes=request.max_time,
        resume=request.resume,
        weights=None if request.weights is None else str(request.weights),
        semantic=request.semantic,
        checkpoints=Every(steps=request.checkpoint_steps),
        workers=request.workers,
        backbone=request.backbone,
        transforms=request.transforms,
        callbacks=tuple(request.callbacks),
        loggers=tuple(request.loggers),
    )
    # of several processes only the first measures: each could come to another result
    settings = [*request.settings, *on_first_process(str(request.device), lambda: _precision(request, listener))]
    listener(Phase("choosing the configuration"))
    plan = plan_training(splits, folder, settings=settings, options=options, evaluate_every=request.evaluate_every)
    return PreparedTraining(splits, folder, plan)


def _located(request: TrainingRequest, listener: Listener) -> "tuple[Path, Splits]":
    """The run folder, and the data as COCO files; weights to start from are in the cache afterwards."""
    out = _path(request.out)
    folder = out if request.resume and out is not None else folder_for("train", request.name, out)
    listener(Phase("reading the dataset"))
    splits = locate_splits(
        data=request.data,
        train_annotations=_path(request.train_annotations),
        train_images=_path(request.train_images),
        val_annotations=_path(request.val_annotations),
        val_images=_path(request.val_images),
        val_share=request.val_share,
        converted=folder / "data",
        say=lambda line: listener(Message(line)),
    )
    name = None if request.weights is None else str(request.weights)
    if name is not None and to_be_fetched(name):
        read_splits(splits)  # faults of the data are reported before a long download
        listener(Phase(f"downloading the weights of {name}"))
        fetch(name, progress=lambda done, total: listener(Downloading(name, done, total)))
    return folder, splits


def _precision(request: TrainingRequest, listener: Listener) -> list[Setting]:
    """The setting that `precision` stands for: `auto` measures once, and a resumed run keeps what it has."""
    if request.precision is None or (request.precision == "auto" and request.resume):
        return []
    from htc.inference.device import choose_device
    from htc.inference.precision import resolve_precision

    resolved = resolve_precision(request.precision, choose_device(request.device))
    if request.precision == "auto":
        listener(Message(f"precision auto: {resolved}"))
    return [Setting(("precision",), resolved, "precision")]


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
