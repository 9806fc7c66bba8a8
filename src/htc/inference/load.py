"""Load one or several models, by name, folder or weights file, as a predictor."""

from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Never, Unpack

import torch
from torch import nn

from htc.checkpoint.exported import exported_kind
from htc.checkpoint.fit import load_weights
from htc.checkpoint.load import load_model
from htc.checkpoint.prefixes import absolute_source
from htc.errors import ConfigError
from htc.inference.device import choose_device
from htc.inference.ensemble import EnsemblePredictor
from htc.inference.exported import load_exported
from htc.inference.precision import PrecisionChoice, resolve_precision
from htc.inference.predictor import ImagePredictor, Predictor
from htc.inference.views import SINGLE_VIEW, View, parse_views
from htc.keywords import unknown_option
from htc.model.detector import Detector
from htc.model.optimize import for_inference
from htc.settings.layers import Setting, nested
from htc.settings.python import Overrides, check_overrides, python_settings

Models = str | Path | ImagePredictor[Any] | Sequence[str | Path | Predictor]
"""A model (a name, a file, a folder or a predictor), or several."""


def load(
    model: str | Path,
    *,
    weights: str | Path | None = None,
    device: str | int | torch.device = "auto",
    precision: PrecisionChoice | None = None,
    backbone: nn.Module | None = None,
    **overrides: Unpack[Overrides],
) -> Predictor:
    """Load a model for prediction.

    Args:
        model: a preset name (with `weights`, or with its released weights), a native or run folder, a `.pth` or
            `.safetensors` file ("FILE#teacher" for one of several models in a file), or an exported file (`.onnx`, or
            the `.xml` of OpenVINO).
        weights: a weights file or folder, "FILE#teacher", or the name of a preset with released weights.
        device: "auto" (CUDA if there is one, else the CPU), "cpu", "cuda", "cuda:N", N, "mps" or a `torch.device`.
        precision: "fp32", "bf16", or "auto" for the faster one on this device; `None`: the model's own.
        backbone: the module of a model that was trained with your own backbone (see `htc.Detector`); its weights are
            loaded from `model`.
        **overrides: changes to sections of the model's configuration, such as `inference={"max_detections": 300}`.

    Raises:
        ConfigError: a name is unknown, or a value contradicts the weights.
        CheckpointError: the weights do not fit.
        TypeError: an option does not exist; the message names the nearest.

    Example:
        >>> model = htc.load("htc_r50_fpn_20e_coco", device="cuda:1", precision="auto")
        >>> model.predict("street.jpg")
    """
    check_overrides(load, overrides)
    if not isinstance(model, str | PathLike):
        raise ConfigError(f"a model cannot be a {type(model).__name__}: pass a preset name, a folder or a weights file")
    chosen_device = choose_device(device)
    if precision is not None and not (precision == "auto" and exported_kind(Path(model))):
        overrides = {**overrides, "precision": resolve_precision(precision, chosen_device)}  # type: ignore[assignment]
    settings = python_settings(None, overrides, "htc.load")
    return load_with_settings(model, weights, chosen_device, settings, backbone)


def load_with_settings(
    model: str | Path,
    weights: str | Path | None,
    device: torch.device,
    settings: Sequence[Setting],
    backbone: nn.Module | None = None,
) -> Predictor:
    """Load a model as `load` does, with settings that know their sources, for messages; raises the same errors."""
    if exported_kind(Path(model)):
        if weights is not None or backbone is not None:
            given = "backbone" if weights is None else "weights"
            raise ConfigError(f"{model} is an exported file, which contains its network: remove {given}")
        return load_exported(Path(model), device, settings)
    loaded = load_model(model, weights, nested(settings))
    detector = Detector(loaded.config, backbone)
    load_weights(detector, loaded)
    ready = for_inference(detector, loaded.config.precision).to(device)
    # `Predictor.save` reads the weights again, perhaps from another working directory.
    own = None if weights is None else absolute_source(weights)
    again = partial(load_model, absolute_source(model), own, nested(settings))
    return Predictor(ready, detector.config, lambda: again().state_dict)


def ensemble(
    models: Sequence[str | Path | Predictor],
    *,
    views: str | Sequence[View] | None = None,
    device: str | int | torch.device = "auto",
    precision: PrecisionChoice | None = None,
    **unknown: Never,
) -> EnsemblePredictor:
    """Combine models of the same classes, or several views of one model, into one predictor (test-time augmentation).

    In each view, the proposals of all models are fused; scores, boxes and mask probabilities are averaged.

    Args:
        models: predictors, or what `htc.load` takes. Their classes may be in any order; labels, thresholds and
            `max_detections` are the first one's.
        views: scales, then flips, as in "0.75,1,1.25:flip" or "600x900,800x1200"; "paper" for the paper's ten views.
            `None`: one view, without augmentation.
        device: the device of models given by name or path.
        precision: the precision of models given by name or path; `None`: each model's own.

    Raises:
        ConfigError: the models have different classes, or `views` is invalid.
        CheckpointError: a model cannot be loaded.
        TypeError: an option does not exist; the message names the nearest.

    Example:
        >>> both = htc.ensemble([model_a, "runs/train/b"], views="1:flip")
        >>> both.predict("street.jpg")
    """
    if unknown:
        raise unknown_option(ensemble, unknown)
    members = _loaded(named_models(models), None, device, precision, ())
    parsed_views = parse_views(views) if isinstance(views, str) else views
    return EnsemblePredictor(members, SINGLE_VIEW if parsed_views is None else parsed_views)


def named_models(model: Models | None) -> Sequence[str | Path | ImagePredictor[Any]]:
    """Return one model or several as a list; an empty one for None."""
    if model is None:
        return []
    return [model] if isinstance(model, str | Path | ImagePredictor) else list(model)


def load_members(
    models: Sequence[str | Path | ImagePredictor[Any]],
    weights: str | Path | None = None,
    views: Sequence[View] | None = None,
    device: str | int | torch.device = "auto",
    precision: PrecisionChoice | None = None,
    *,
    settings: Sequence[Setting] = (),
) -> tuple[ImagePredictor[Any], Sequence[ImagePredictor[Any]]]:
    """Return the predictor of one model or of an ensemble, and the predictor of each single model in the same `views`.

    Names are loaded, predictors are used as they are; `weights` are for a single model. Raises the errors of `load` and
    `EnsemblePredictor`.
    """
    if len(models) == 1 and isinstance(models[0], EnsemblePredictor) and views is None:
        return models[0], [models[0]]
    members = _loaded(models, weights, device, precision, settings)
    if views is None and len(members) == 1:
        return members[0], members
    parsed_views = SINGLE_VIEW if views is None else views
    return EnsemblePredictor(members, parsed_views), [EnsemblePredictor([member], parsed_views) for member in members]


def _loaded(
    models: Sequence[str | Path | ImagePredictor[Any]],
    weights: str | Path | None,
    device: str | int | torch.device,
    precision: PrecisionChoice | None,
    settings: Sequence[Setting],
) -> list[Predictor]:
    """Load every model that is not yet a predictor; `precision` "auto" is resolved once."""
    chosen_device = choose_device(device)
    exported = all(isinstance(model, str | PathLike) and exported_kind(Path(model)) for model in models)
    if precision is not None and not (precision == "auto" and exported):
        settings = [*settings, Setting(("precision",), resolve_precision(precision, chosen_device), "precision")]
    members: list[Predictor] = []
    for model in models:
        if isinstance(model, EnsemblePredictor):
            raise ConfigError("an ensemble cannot be part of an ensemble or get other views: pass its models instead")
        if not isinstance(model, Predictor | str | PathLike):
            raise ConfigError(
                f"a model cannot be a {type(model).__name__}: pass a predictor of htc.load, a preset name, a folder or "
                f"a weights file"
            )
        member = model if isinstance(model, Predictor) else load_with_settings(model, weights, chosen_device, settings)
        members.append(member)
    return members
