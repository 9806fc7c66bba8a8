"""The model options of a command: settings, downloads with a progress bar, and loading of the predictor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from htc.checkpoint import check
from htc.checkpoint.facts import NO_FACTS, UserFacts
from htc.checkpoint.zoo import cached, fetch
from htc.cli.options import ModelOptions
from htc.cli.output import print_message, progress
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
    """Return all settings of the call, including the flags `--max-detections` and `--score-threshold`, which set fields
    of the configuration.
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
    """Print the configuration of a model, with the settings applied, as YAML for --config."""
    print(to_yaml(check.config_of(model, weights, settings, facts)), end="")
    return 0


def check_named_models(
    models: Sequence[str], weights: str | None, views: str | None, settings: Sequence[Setting]
) -> Config | None:
    """Check the models and `--views`; return the configuration if it is known without reading weights."""
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
    """Load the predictor of the call and that of each single model, both with the views of `--views`; released weights
    are downloaded first. Call `check_named_models` before.

    With `probe`, `--precision auto` selects the faster precision on this device; otherwise the model's own.
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
    """Resolve `--precision auto` to a setting for the device of the call; empty for any other `--precision`."""
    if options.precision != "auto":
        return []
    check_torch()
    from htc.inference.device import choose_device
    from htc.inference.precision import resolve_precision

    return [Setting(("precision",), resolve_precision("auto", choose_device(options.device)), "--precision auto")]


def fetch_weights(name: str) -> None:
    """Download released weights of this name to the cache, unless they are there or there are none."""
    if not check.to_be_fetched(name):
        return
    print_message(f"downloading the released weights of {name} to {cached(name).parent}")
    with progress("MiB") as bar:
        fetch(name, progress=lambda done, total: bar(done // MEBI, (total or 0) // MEBI, ""))
