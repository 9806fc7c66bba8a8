"""From names, folders or weights files to a `Predictor`, of one model or of several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from htc.checkpoint.load import load_model
from htc.devices import parse_device
from htc.errors import ConfigError
from htc.inference.ensemble import EnsemblePredictor
from htc.inference.precision import PrecisionChoice, resolve_precision
from htc.inference.predictor import ImagePredictor, Predictor
from htc.inference.views import SINGLE_VIEW, View
from htc.model.detector import Detector
from htc.model.optimize import for_inference
from htc.settings.layers import Setting, from_values, nested


def load(
    model: str | Path,
    weights: str | Path | None = None,
    device: str | int | torch.device = "auto",
    precision: PrecisionChoice | None = None,
    *,
    settings: Sequence[Setting] = (),
    **overrides: Any,
) -> Predictor:
    """Load a model that is ready to predict.

    Args:
        model: a preset name (with `weights`, or with its released weights), a native or run folder, or a `.pth` or
            `.safetensors` file.
        weights: a weights file or folder, or the name of a preset with released weights.
        device: "auto" (CUDA if there is one, else the CPU), "cpu", "cuda", "cuda:N", N, "mps" or a `torch.device`.
        precision: of the network's arithmetic: "fp32", "bf16", or "auto" for the faster one on this device;
            `None`: the model's own.
        settings: settings with their sources, below `overrides`.
        overrides: changes of the model's configuration, as in `inference={"max_detections": 300}`.

    Raises:
        ConfigError: a name is unknown, or a value contradicts the weights.
        CheckpointError: the weights do not fit.

    Example:
        >>> model = htc.load("htc_r50_fpn_20e_coco", device="cuda:1", precision="auto")
    """
    place = choose_device(device)
    values = {**overrides, **({} if precision is None else {"precision": resolve_precision(precision, place)})}
    loaded = load_model(model, weights, nested([*settings, *from_values(values, "htc.load")]))
    detector = Detector(loaded.config)
    detector.load_state_dict(loaded.state_dict)
    return Predictor(for_inference(detector, loaded.config.precision).to(place), loaded.config)


def load_members(
    models: Sequence[str | Path],
    weights: str | Path | None = None,
    views: Sequence[View] | None = None,
    device: str | int | torch.device = "auto",
    precision: PrecisionChoice | None = None,
    *,
    settings: Sequence[Setting] = (),
) -> tuple[ImagePredictor[Any], Sequence[ImagePredictor[Any]]]:
    """The predictor of one model or of an ensemble, and the predictor of each model alone in the same `views`.

    `weights` are for a single model. Raises the errors of `load` and `EnsemblePredictor`.
    """
    place = choose_device(device)
    if precision is not None:  # once, not for each model
        settings = [*settings, Setting(("precision",), resolve_precision(precision, place), "precision")]
    members = [load(model, weights, place, settings=settings) for model in models]
    if views is None and len(members) == 1:
        return members[0], members
    seen = SINGLE_VIEW if views is None else views
    return EnsemblePredictor(members, seen), [EnsemblePredictor([member], seen) for member in members]


def choose_device(device: str | int | torch.device = "auto") -> torch.device:
    """The device of that name, its index included.

    `device` is "auto" (CUDA if there is one, else the CPU: nobody has tried Apple's MPS), "cpu", "cuda", "cuda:N", N,
    "mps" or a `torch.device`. Raises `ConfigError` for an unknown name and for a device that this machine does not
    have.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = device if isinstance(device, torch.device) else parse_device(device)
    if name == "auto":
        return torch.device("cuda" if available["cuda"] else "cpu")
    wanted = torch.device(name)
    if not available.get(wanted.type, True) or (
        wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count()
    ):
        there = ", ".join(kind for kind, found in available.items() if found)
        raise ConfigError(
            f"device {str(wanted)!r} is not available: torch {torch.__version__} has {there}; give one of these"
        )
    return wanted
