"""The options of a training, checked before any data is read and before torch is imported."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from htc.checkpoint.check import check_weights
from htc.config import Config, Precision
from htc.data.formats.map_rules import AUTO, parse_map_options
from htc.devices import parse_device
from htc.errors import ConfigError, DataError
from htc.presets import DEFAULT_PRESET
from htc.ranks import here
from htc.settings.layers import Setting, names_preset, resolve
from htc.training.launch import check_can_be_sent
from htc.training.loggers import check_loggers
from htc.training.start import check_kind

if TYPE_CHECKING:
    import torch
    from lightning import Callback
    from lightning.pytorch.loggers import Logger
    from torch import nn

    from htc.data.dataset import Dataset
    from htc.data.semantic_maps import MapSources
    from htc.data.user_transforms import Transforms


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """The options of `htc.train`, which documents them; `settings` are those of the configuration."""

    settings: Sequence[Setting] = ()
    data: "str | Path | Dataset | Mapping[str, Dataset] | None" = None
    val_share: float | None = None
    folds: int | None = None
    train_annotations: str | Path | None = None
    train_images: str | Path | None = None
    val_annotations: str | Path | None = None
    val_images: str | Path | None = None
    label_maps: str = AUTO
    coco_holes: Literal["on", "off"] = "on"
    weights: str | Path | None = None
    semantic: "Literal['auto', 'none'] | MapSources" = "auto"
    out: str | Path | None = None
    evaluate_every: int | None = None
    max_time: float | None = None
    seed: int = 0
    workers: "int | Literal['auto']" = "auto"
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
    started: float = field(default_factory=time.monotonic)
    """Reading of `time.monotonic()` at the call, from which `max_time` counts."""

    @property
    def starts_processes(self) -> bool:
        """Whether the training runs in processes that are started for it; under torchrun and srun they exist."""
        return self.devices * self.nodes > 1 and here().ranks == 1

    @property
    def has_data(self) -> bool:
        """Whether training data is given."""
        return self.data is not None or self.train_annotations is not None

    def check(self) -> Config:
        """Raise `ConfigError` for options that cannot be used, before reading data; return the configuration so far."""
        given = resolve(self.settings, DEFAULT_PRESET)
        for name, least in {"devices": 1, "nodes": 1, "workers": 0, "seed": 0}.items():
            value = getattr(self, name)
            if not (name == "workers" and value == "auto") and (not isinstance(value, int) or value < least):
                raise ConfigError(f"{name} is {value}: give {least} or more{' or auto' if name == 'workers' else ''}")
        for name in ("evaluate_every", "checkpoint_steps", "max_time"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} is {value}: give a value above 0")
        if self.folds is not None:
            self._check_folds(self.folds)
        if self.resume and self.out is None:
            raise ConfigError("resume needs out, the folder of the run to resume (--resume --out DIR)")
        if isinstance(self.device, str | int):
            parse_device(self.device)
        if self.devices > 1 and str(self.device) not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"devices is {self.devices} and device is {self.device}: several processes use the devices 0 to "
                f"{self.devices - 1}; give device cuda or cpu, and select GPUs with CUDA_VISIBLE_DEVICES"
            )
        if self.weights is not None and not check_kind(str(self.weights), self.settings):
            check_weights(str(self.weights))
        parse_map_options(self.label_maps)
        if self.coco_holes not in ("on", "off"):
            raise ConfigError(f"coco_holes is {self.coco_holes!r}: pass on or off")
        check_loggers(self.loggers)
        if self.transforms is not None and not callable(self.transforms):
            raise ConfigError(f"transforms is a {type(self.transforms).__name__}: give a function (image, target)")
        if self.backbone is not None and not callable(getattr(self.backbone, "parameters", None)):
            raise ConfigError(f"backbone is a {type(self.backbone).__name__}: give an nn.Module, or a dictionary")
        for one in self.callbacks:
            if not callable(
                getattr(one, "on_train_start", None)
            ):  # a check without importing Lightning, which takes seconds
                raise ConfigError(f"callbacks: {one!r} is not a Lightning callback")
        if self.starts_processes:
            check_can_be_sent({"transforms": self.transforms, "backbone": self.backbone}, self.callbacks, self.loggers)
        return given

    def _check_folds(self, folds: int) -> None:
        """Raise `ConfigError` for folds that cannot be trained."""
        if folds < 2:
            raise ConfigError(f"folds is {folds}: give 2 or more, such as 5")
        validation = {
            "val_share": self.val_share,
            "val_annotations": self.val_annotations,
            "val_images": self.val_images,
        }
        given = [name for name, value in validation.items() if value is not None]
        if given:
            raise ConfigError(f"folds evaluates on the training images in turn: remove {', '.join(given)}, or folds")
        if self.devices * self.nodes > 1 or here().ranks > 1:
            raise ConfigError("folds trains in one process: remove devices and nodes, or folds")

    def check_data(self) -> None:
        """Raise `DataError` if no training data is given."""
        if not self.has_data:
            raise DataError("nothing to train on: give --data DIR, or --train-annotations JSON with --train-images DIR")

    @property
    def name(self) -> str:
        """Name of the run: that of the preset if one is given, else that of the dataset."""
        source = self.data if isinstance(self.data, str | Path) else self.train_annotations
        if names_preset(self.settings):
            return resolve(self.settings, DEFAULT_PRESET).preset
        if source is None:
            return "dataset"
        path = Path(source).absolute()
        return path.stem if path.suffix else path.name
