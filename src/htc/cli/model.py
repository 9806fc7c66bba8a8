"""The model flags of a command: settings, checks, downloads with a progress bar, and the loaded predictor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from htc.checkpoint.check import check_model, check_released, to_be_fetched
from htc.checkpoint.facts import NO_FACTS, UserFacts
from htc.checkpoint.zoo import cached, fetch
from htc.cli.options import ModelOptions
from htc.cli.output import progress, say
from htc.compatibility import check_torch
from htc.config import Config
from htc.errors import ConfigError
from htc.settings.layers import Setting, nested, to_yaml

if TYPE_CHECKING:
    from htc.inference.predictor import ImagePredictor, Predictor

MEBI = 1 << 20


def settings_of(
    options: ModelOptions,
    flags: Sequence[tuple[str, str]],
    max_detections: int | None = None,
    score_threshold: float | None = None,
) -> list[Setting]:
    """All settings of the call, with the flags that stand for one: objects a picture, and a score that the model
    itself can stop at.
    """
    given = (
        ("max_detections", max_detections, "--max-detections"),
        ("score_threshold", score_threshold, "--score-threshold"),
    )
    return [
        *options.settings(flags),
        *(Setting(("inference", name), value, flag) for name, value, flag in given if value is not None),
    ]


def config_of(model: str, weights: str | None, settings: Sequence[Setting], facts: UserFacts = NO_FACTS) -> Config:
    """The configuration that the model would have; only a weights file has to be read for it, and perhaps to be told
    more.
    """
    known = check_model(model, weights, settings)
    if known is not None:
        return known
    check_torch()
    from htc.checkpoint.load import load_model

    return load_model(model, weights, nested(settings), facts).config


def print_config_of(model: str, weights: str | None, settings: Sequence[Setting], facts: UserFacts = NO_FACTS) -> int:
    """Print the configuration that the model would have, as YAML for --config."""
    print(to_yaml(config_of(model, weights, settings, facts)), end="")
    return 0


def load_predictor(model: str, weights: str | None, settings: Sequence[Setting], options: ModelOptions) -> "Predictor":
    """The model on its device; released weights are fetched first, with a progress bar. The call has passed
    `check_model`.
    """
    check_torch()
    from htc.inference.load import choose_device, load

    device = choose_device(options.device)
    fetch_weights(weights if weights is not None else model)
    return load(model, weights, device, settings=settings)


def check_models(
    models: Sequence[str], weights: str | None, augment: str | None, settings: Sequence[Setting]
) -> Config | None:
    """`check_model` and `check_released` for each of several models, and the words of `--augment`.

    Returns the configuration of the first model of which it is known without reading weights.
    """
    if len(models) > 1 and weights is not None:
        raise ConfigError("--weights is of one model: with several, give folders or weights files as models")
    known = [check_model(model, weights, settings) for model in models]
    for model in models:
        check_released(model, weights)
    if augment is not None:
        check_torch()
        from htc.inference.augmentation import parse_views

        parse_views(augment)
    return next((config for config in known if config is not None), None)


def load_members(
    models: Sequence[str], weights: str | None, augment: str | None, settings: Sequence[Setting], options: ModelOptions
) -> "tuple[ImagePredictor[Any], Sequence[ImagePredictor[Any]]]":
    """What several models say together, and each of them alone, in the views of `--augment`. The call has passed
    `check_models`.
    """
    alone = [load_predictor(model, weights, settings, options) for model in models]
    if augment is None and len(alone) == 1:
        return alone[0], alone
    from htc.inference.augmentation import SINGLE_VIEW, parse_views
    from htc.inference.ensemble import EnsemblePredictor

    views = SINGLE_VIEW if augment is None else parse_views(augment)
    return EnsemblePredictor(alone, views), [EnsemblePredictor([one], views) for one in alone]


def fetch_weights(name: str) -> None:
    """Have the weights of that name in the cache, if it names released weights."""
    if not to_be_fetched(name):
        return
    say(f"fetching the released weights of {name} into {cached(name).parent}")
    with progress("MiB") as bar:
        fetch(name, progress=lambda done, total: bar(done // MEBI, (total or 0) // MEBI, ""))
