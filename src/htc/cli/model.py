"""The model flags of a command: its settings, downloads with a progress bar, and the loaded predictor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from htc.checkpoint import check
from htc.checkpoint.facts import NO_FACTS, UserFacts
from htc.checkpoint.zoo import cached, fetch
from htc.cli.options import ModelOptions
from htc.cli.output import progress, say
from htc.compatibility import check_torch
from htc.config import Config
from htc.settings.layers import Setting, to_yaml

if TYPE_CHECKING:
    from htc.inference.predictor import ImagePredictor

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


def print_config_of(model: str, weights: str | None, settings: Sequence[Setting], facts: UserFacts = NO_FACTS) -> int:
    """Print the configuration that the model would have, as YAML for --config."""
    print(to_yaml(check.config_of(model, weights, settings, facts)), end="")
    return 0


def check_named_models(
    models: Sequence[str], weights: str | None, augment: str | None, settings: Sequence[Setting]
) -> Config | None:
    """Check the models and the words of `--augment`; returns the configuration where it is known without weights."""
    known = check.check_models(models, weights, settings)
    if augment is not None:
        check_torch()
        from htc.inference.augmentation import parse_views

        parse_views(augment)
    return known


def load_named_models(
    models: Sequence[str], weights: str | None, augment: str | None, settings: Sequence[Setting], options: ModelOptions
) -> "tuple[ImagePredictor[Any], Sequence[ImagePredictor[Any]]]":
    """The predictor of the call and that of each model alone, in the views of `--augment`; released weights are
    fetched first. The call has passed `check_named_models`.
    """
    check_torch()
    from htc.inference import load
    from htc.inference.augmentation import parse_views

    device = load.choose_device(options.device)
    for model in models:
        fetch_weights(weights if weights is not None else model)
    views = None if augment is None else parse_views(augment)
    return load.load_members(models, weights, views, device, settings=settings)


def fetch_weights(name: str) -> None:
    """Have the weights of that name in the cache, if it names released weights."""
    if not check.to_be_fetched(name):
        return
    say(f"fetching the released weights of {name} into {cached(name).parent}")
    with progress("MiB") as bar:
        fetch(name, progress=lambda done, total: bar(done // MEBI, (total or 0) // MEBI, ""))
