"""From the call's flags to a loaded model: everything that needs no weights is checked before anything is fetched or built."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from htc.checkpoint.zoo import RELEASED, cached, fetch
from htc.cli.options import ModelOptions
from htc.cli.output import progress, say
from htc.compatibility import check_torch
from htc.config import Config
from htc.errors import CheckpointError
from htc.presets import PRESETS, preset
from htc.settings import Setting, nested, overlay, to_yaml

if TYPE_CHECKING:
    from htc.inference.predictor import Predictor

MEBI = 1 << 20


def settings_of(
    options: ModelOptions, flags: Sequence[tuple[str, str]], max_detections: int | None = None, score_threshold: float | None = None
) -> list[Setting]:
    """All settings of the call, with the flags that stand for one: objects a picture, and a score that the model itself can stop at."""
    given = (("max_detections", max_detections, "--max-detections"), ("score_threshold", score_threshold, "--score-threshold"))
    return [*options.settings(flags), *(Setting(("inference", name), value, flag) for name, value, flag in given if value is not None)]


def check_model(model: str, weights: str | None, settings: Sequence[Setting]) -> None:
    """Refuse an unknown model, missing weights or, for a preset, unusable settings, before anything is fetched or built."""
    if model in PRESETS:
        overlay(preset(model), settings)
    elif not Path(model).exists():
        if Path(model).suffix or Path(model).parent != Path():
            raise CheckpointError(f"{model}: no such file or folder")
        preset(model)
    if weights is not None and weights not in RELEASED and not Path(weights).exists():
        raise CheckpointError(f"--weights {weights}: no such file, and no preset with released weights")


def stored_config(model: str, weights: str | None, settings: Sequence[Setting]) -> Config:
    """The configuration that the model would have; only a weights file has to be read for it."""
    check_model(model, weights, settings)
    if model in PRESETS and weights is None:
        return overlay(preset(model), settings)
    check_torch()
    from htc.checkpoint.load import load_model
    from htc.checkpoint.native import CONFIG_FILE, model_folder, read_config

    if Path(model).is_dir() and weights is None:
        return overlay(read_config(model_folder(Path(model)) / CONFIG_FILE), settings)
    return load_model(model, weights, nested(settings)).config


def print_config_of(model: str, weights: str | None, settings: Sequence[Setting]) -> int:
    """Print the configuration that the model would have, as YAML for --config."""
    print(to_yaml(stored_config(model, weights, settings)), end="")
    return 0


def load_predictor(model: str, weights: str | None, settings: Sequence[Setting], options: ModelOptions) -> "Predictor":
    """The model on its device; released weights are fetched first, with a progress bar."""
    check_model(model, weights, settings)
    check_torch()
    from htc.inference.load import choose_device, load

    device = choose_device(options.device)
    if Path(model).is_dir() and weights is None:
        stored_config(model, None, settings)  # names the flag or file of an unusable value, which the loader does not know
    fetch_weights(weights if weights is not None else model)
    return load(model, weights, device, settings=settings)


def fetch_weights(name: str) -> None:
    """Have the weights of that name in the cache, if it names released weights."""
    if name not in RELEASED or Path(name).exists() or cached(name).exists():
        return
    say(f"fetching the released weights of {name} into {cached(name).parent}")
    with progress("MiB") as bar:
        fetch(name, progress=lambda done, total: bar(done // MEBI, (total or 0) // MEBI, ""))
