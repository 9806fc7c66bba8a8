"""Check the models and weights of a call before anything is downloaded or built; the configuration they would have.

Needs no torch, except for the configuration of a weights file.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from htc.checkpoint.facts import NO_FACTS, UserFacts
from htc.checkpoint.folder import CONFIG_FILE, model_folder, read_config
from htc.checkpoint.zoo import RELEASED, cached
from htc.compatibility import check_torch
from htc.config import Config
from htc.errors import CheckpointError, ConfigError
from htc.presets import PRESETS, preset
from htc.settings.layers import Setting, nested, overlay


def check_model(model: str, weights: str | None, settings: Sequence[Setting]) -> Config | None:
    """Refuse an unknown model, missing weights or unusable settings, before anything is fetched or built.

    Returns the configuration where it is known without reading weights: of a preset with its own weights, and of a
    folder.
    """
    if weights is not None:
        check_weights(weights)
    if model in PRESETS:
        config = overlay(preset(model), settings)
        return config if weights is None else None
    path = Path(model)
    if not model or not path.exists():
        if path.suffix or path.parent != Path():
            raise CheckpointError(
                f"{model}: no such file or folder; give a preset (`htc models` lists them), a folder or a weights file"
            )
        preset(model)
    if path.is_file() and weights is not None:
        raise ConfigError(
            f"{model} is a weights file already: leave --weights out, or give a preset or a folder as the model"
        )
    return overlay(read_config(model_folder(path) / CONFIG_FILE), settings) if path.is_dir() else None


def check_models(models: Sequence[str], weights: str | None, settings: Sequence[Setting]) -> Config | None:
    """`check_model` and `check_released` for each of several models; `weights` are for a single one.

    Returns the configuration of the first model of which it is known without reading weights.
    """
    if len(models) > 1 and weights is not None:
        raise ConfigError("--weights is of one model: with several, give folders or weights files as models")
    known = [check_model(model, weights, settings) for model in models]
    for model in models:
        check_released(model, weights)
    return next((config for config in known if config is not None), None)


def config_of(model: str, weights: str | None, settings: Sequence[Setting], facts: UserFacts = NO_FACTS) -> Config:
    """The configuration that a model would have; only a weights file is read for it."""
    known = check_model(model, weights, settings)
    if known is not None:
        return known
    check_torch()
    from htc.checkpoint.load import load_model

    return load_model(model, weights, nested(settings), facts).config


def check_weights(weights: str) -> None:
    """Refuse `--weights` that are neither there nor released."""
    if weights in RELEASED or (weights and Path(weights).exists()):
        return
    if weights in PRESETS:
        raise CheckpointError(
            f"--weights {weights}: this preset has no released weights; `htc models` shows which have some"
        )
    near = get_close_matches(weights, RELEASED, n=1)
    hint = f"; did you mean {near[0]}?" if near else ", and no preset with released weights"
    raise CheckpointError(f"--weights {weights}: no such file{hint}")


def check_released(model: str, weights: str | None) -> None:
    """Refuse a preset without weights, if nothing else gives them."""
    if model in PRESETS and weights is None and model not in RELEASED:
        raise CheckpointError(
            f"{model}: there are no released weights for this preset; give --weights FILE, or train it: htc train "
            f"--preset {model}"
        )


def to_be_fetched(name: str) -> bool:
    """Whether that name stands for released weights that are not in the cache."""
    return name in RELEASED and not Path(name).exists() and not cached(name).exists()
