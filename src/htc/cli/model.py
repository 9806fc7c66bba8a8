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
from htc.inference.views import parse_views
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
    """All settings of the call, with the flags that stand for one: objects an image, and a score that the model
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
    models: Sequence[str], weights: str | None, views: str | None, settings: Sequence[Setting]
) -> Config | None:
    """Check the models and the words of `--views`; returns the configuration where it is known without weights."""
    known = check.check_models(models, weights, settings)
    if views is not None:
        parse_views(views)
    return known


def load_named_models(
    models: Sequence[str],
    weights: str | None,
    views: str | None,
    settings: Sequence[Setting],
    options: ModelOptions,
    *,
    probe: bool = False,
) -> "tuple[ImagePredictor[Any], Sequence[ImagePredictor[Any]]]":
    """The predictor of the call and that of each model alone, in the views of `--views`; released weights are fetched
    first. The call has passed `check_named_models`.

    `probe`: whether `--precision auto` takes the faster precision of this device; otherwise it is the model's own.
    """
    check_torch()
    from htc.inference import load

    device = load.choose_device(options.device)
    for model in models:
        fetch_weights(weights if weights is not None else model)
    precision = None if options.precision == "auto" and not probe else options.precision
    return load.load_members(
        models, weights, None if views is None else parse_views(views), device, precision, settings=settings
    )


def measured_precision(options: ModelOptions) -> list[Setting]:
    """The setting that `--precision auto` stands for on the device of the call; none for another `--precision`."""
    if options.precision != "auto":
        return []
    check_torch()
    from htc.inference.device import choose_device
    from htc.inference.precision import resolve_precision

    return [Setting(("precision",), resolve_precision("auto", choose_device(options.device)), "--precision auto")]


def fetch_weights(name: str) -> None:
    """Have the weights of that name in the cache, if it names released weights."""
    if not check.to_be_fetched(name):
        return
    say(f"fetching the released weights of {name} into {cached(name).parent}")
    with progress("MiB") as bar:
        fetch(name, progress=lambda done, total: bar(done // MEBI, (total or 0) // MEBI, ""))
