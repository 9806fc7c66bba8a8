"""Check the models and weights of a call, and determine their configuration, before anything is downloaded or built.

Does not import torch, except for the configuration of a weights file.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from htc.checkpoint.exported import exported_kind, read_description
from htc.checkpoint.facts import NO_FACTS, UserFacts
from htc.checkpoint.folder import CONFIG_FILE, model_folder, read_config
from htc.checkpoint.prefixes import split_choice
from htc.checkpoint.zoo import RELEASED, cached
from htc.compatibility import check_torch
from htc.config import Config
from htc.errors import CheckpointError, ConfigError
from htc.presets import PRESETS, preset
from htc.settings.layers import Setting, nested, overlay


def check_model(model: str, weights: str | None, settings: Sequence[Setting]) -> Config | None:
    """Raise an error for an unknown model, missing weights or invalid settings, before anything is downloaded or built.

    Returns the configuration if it is known without reading weights: for a preset with its own weights, a folder and an
    exported file.
    """
    if weights is not None:
        check_weights(weights)
    if model in PRESETS:
        config = overlay(preset(model), settings)
        return config if weights is None else None
    path = Path(split_choice(model)[0])
    if not model or not path.exists():
        if path.suffix or path.parent != Path():
            raise CheckpointError(
                f"{model}: no such file or folder; pass a preset (`htc models` lists them), a folder or a weights file"
            )
        preset(model)
    if path.is_file() and weights is not None:
        raise ConfigError(
            f"{model} is already a weights file: remove --weights, or pass a preset or a folder as the model"
        )
    if path.is_dir():
        return overlay(read_config(model_folder(path) / CONFIG_FILE), settings)
    kind = exported_kind(path)
    return overlay(read_description(path, kind).config, settings) if kind else None


def check_models(models: Sequence[str], weights: str | None, settings: Sequence[Setting]) -> Config | None:
    """Run `check_model` and `check_released` for each model; `weights` are for a single model.

    Returns the first configuration that is known without reading weights.
    """
    if len(models) > 1 and weights is not None:
        raise ConfigError("--weights is for one model: for several models, pass folders or weights files as models")
    known = [check_model(model, weights, settings) for model in models]
    for model in models:
        check_released(model, weights)
    return next((config for config in known if config is not None), None)


def config_of(model: str, weights: str | None, settings: Sequence[Setting], facts: UserFacts = NO_FACTS) -> Config:
    """Return the configuration that a model would have; reads a weights file only if it is needed for this."""
    known = check_model(model, weights, settings)
    if known is not None:
        return known
    check_torch()
    from htc.checkpoint.load import load_model

    return load_model(model, weights, nested(settings), facts).config


def check_weights(weights: str) -> None:
    """Raise `CheckpointError` for `--weights` that neither exist nor are released."""
    if weights in RELEASED or (weights and Path(split_choice(weights)[0]).exists()):
        return
    if weights in PRESETS:
        raise CheckpointError(
            f"--weights {weights}: this preset has no released weights; `htc models` lists the presets that have"
        )
    near = get_close_matches(weights, RELEASED, n=1)
    hint = f"; did you mean {near[0]}?" if near else " and no preset of this name with released weights"
    raise CheckpointError(f"--weights {weights}: no such file{hint}")


def check_released(model: str, weights: str | None) -> None:
    """Raise `CheckpointError` for a preset without released weights if no other weights are given."""
    if model in PRESETS and weights is None and model not in RELEASED:
        raise CheckpointError(
            f"{model}: there are no released weights for this preset; add --weights FILE, or train it: htc train "
            f"--preset {model}"
        )


def to_be_fetched(name: str) -> bool:
    """Return whether this is the name of released weights that are not in the cache yet."""
    return name in RELEASED and not Path(name).exists() and not cached(name).exists()
