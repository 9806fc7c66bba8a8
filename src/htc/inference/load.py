"""From names, folders or weights files to a `Predictor`, of one model or of several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from htc.checkpoint.fit import load_weights
from htc.checkpoint.load import load_model
from htc.config import Precision
from htc.errors import ConfigError
from htc.inference.augmentation import SINGLE_VIEW, View
from htc.inference.ensemble import EnsemblePredictor
from htc.inference.predictor import ImagePredictor, Predictor
from htc.model.detector import Detector
from htc.model.optimize import for_inference
from htc.settings.layers import Setting, from_values, nested

DeviceName = Literal["auto", "cpu", "cuda", "mps"]


def load(
    model: str | Path,
    weights: str | Path | None = None,
    device: str | torch.device = "auto",
    precision: Precision | None = None,
    *,
    backbone: nn.Module | None = None,
    settings: Sequence[Setting] = (),
    **overrides: Any,
) -> Predictor:
    """A model ready to predict.

    `model` is a preset name (then with `weights`, or with its released weights), a native or run folder, or a `.pth` or
    `.safetensors` file. `backbone` is the module of a model that was trained with a backbone of your own (see
    `htc.Detector`); its weights come from `model`. `overrides` change the configuration:
    `inference={"max_detections": 300}`; `settings` come below them. Raises `ConfigError` for unknown names and values
    that contradict the weights, `CheckpointError` for weights that do not fit.
    """
    values = {**overrides, **({} if precision is None else {"precision": precision})}
    place = choose_device(device)
    loaded = load_model(model, weights, nested([*settings, *from_values(values, "htc.load")]))
    detector = Detector(loaded.config, backbone)
    load_weights(detector, loaded)
    return Predictor(for_inference(detector, loaded.config.precision).to(place), detector.config)


def load_members(
    models: Sequence[str | Path],
    weights: str | Path | None = None,
    views: Sequence[View] | None = None,
    device: str | torch.device = "auto",
    *,
    settings: Sequence[Setting] = (),
) -> tuple[ImagePredictor[Any], Sequence[ImagePredictor[Any]]]:
    """The predictor of one model or of an ensemble, and the predictor of each model alone in the same `views`.

    `weights` are for a single model. Raises the errors of `load` and `EnsemblePredictor`.
    """
    members = [load(model, weights, device, settings=settings) for model in models]
    if views is None and len(members) == 1:
        return members[0], members
    seen = SINGLE_VIEW if views is None else views
    return EnsemblePredictor(members, seen), [EnsemblePredictor([member], seen) for member in members]


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device of that name; `auto` is CUDA, else the CPU: Apple's MPS was never at hand to try. Raises
    `ConfigError` where there is none such.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is unknown: give auto, cpu, cuda or mps") from error
    if not available.get(wanted.type, True) or (
        wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count()
    ):
        there = ", ".join(name for name, found in available.items() if found)
        raise ConfigError(
            f"device {str(device)!r} is not there: torch {torch.__version__} sees {there}; give one of these"
        )
    return wanted
