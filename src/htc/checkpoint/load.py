"""One way in: a preset name, a folder of ours, a run folder or a weights file -> configuration and complete state dict."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from htc import settings
from htc.checkpoint.fit import LoadedWeights, fit_weights
from htc.checkpoint.infer import category_ids, class_names, infer_config
from htc.checkpoint.mmdetection import Upgraded, read_mmdetection
from htc.checkpoint.native import from_pretrained, read_safetensors, stored_config
from htc.checkpoint.report import KeyReport, shapes_of
from htc.checkpoint.structure import config_value, read_structure
from htc.checkpoint.zoo import RELEASED, fetch
from htc.config import Config
from htc.errors import CheckpointError, ConfigError
from htc.presets import PRESETS, preset

Overrides = Mapping[str, Any]
_MEANING = ("cascade.delta_stds", "rpn.anchor_scale", "rpn.anchor_ratios", "input.mean", "input.std")
_LEAVE = "give the weights file as the model: its own configuration is then used"


def load_model(model: str | Path, weights: str | Path | None = None, overrides: Overrides | None = None) -> LoadedWeights:
    """Configuration and weights of a model.

    `model`: a preset name (with its released weights, or `weights`), a native or run folder, or a `.pth` / `.safetensors` file.
    `weights`: a file, a folder, or the name of a preset with released weights. `overrides`: nested configuration values that
    the user set; what contradicts the weights is an error, what turns a part off drops its weights.
    Raises `ConfigError` for unknown names and invalid values (before anything is fetched), `CheckpointError` for the weights.
    """
    overrides = overrides or {}
    if str(model) in PRESETS:
        config = overlay(preset(str(model)), overrides)
        return _load_with(config, _weights_of(str(model), weights), overrides, from_preset=True)
    path = Path(model)
    if path.is_dir():
        config, state = from_pretrained(path)
        config = overlay(config, overrides)
        if weights is not None:
            return _load_with(config, _located(weights), overrides, from_preset=False)
        return fit_weights(state, config, path, explicit_fields(overrides))
    if path.is_file():
        if weights is not None:
            raise ConfigError(f"{path} is a weights file already; leave --weights out, or give a preset name or a folder as the model")
        return _load_file(path, overrides)
    if path.suffix or path.parent != Path():
        raise CheckpointError(f"{path}: no such file or folder")
    preset(str(model))  # unknown: raises with the nearest names
    raise AssertionError("an unknown name is no preset")


def overlay(config: Config, overrides: Overrides) -> Config:
    """`config` with nested values laid over it; new class names bring their ids. Raises `ConfigError` listing all faults."""
    if "classes" in overrides and "category_ids" not in overrides and isinstance(overrides["classes"], list | tuple):
        overrides = {**overrides, "category_ids": category_ids(tuple(overrides["classes"]))}
    return settings.overlay(config, settings.from_values(overrides))


def explicit_fields(overrides: Overrides, prefix: str = "") -> frozenset[str]:
    """The dotted names of everything in nested overrides, branches included: {"semantic": {"classes": 2}} -> semantic, semantic.classes."""
    return frozenset(_dotted(overrides, prefix))


def _dotted(overrides: Overrides, prefix: str) -> Iterator[str]:
    for name, value in overrides.items():
        yield f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{name}.")


def _weights_of(name: str, weights: str | Path | None) -> Path:
    if weights is not None:
        return _located(weights)
    if name not in RELEASED:
        raise CheckpointError(f"{name}: there are no released weights for this preset; give --weights FILE, or train it with `htc train --preset {name}`")
    return fetch(name)


def _located(weights: str | Path) -> Path:
    path = Path(weights)
    if path.exists():
        return path
    if str(weights) in RELEASED:
        return fetch(str(weights))
    raise CheckpointError(f"{path}: no such weights file")


def _load_with(config: Config, path: Path, overrides: Overrides, *, from_preset: bool) -> LoadedWeights:
    """Weights for a configuration that is known; class names may still come from the file if the configuration is a mere preset."""
    explicit = explicit_fields(overrides)
    state, classes, report, facts = _read(path)
    if from_preset and "classes" not in explicit:
        config = _with_file_classes(config, state, classes, path)
    lines = [] if facts is None else trained_otherwise(facts, config, explicit)
    if lines:
        raise CheckpointError("\n  ".join([f"{path}: the file's own configuration contradicts this one ({config.preset})", *lines, _LEAVE]))
    return fit_weights(state, config, path, explicit, report)


def trained_otherwise(facts: Mapping[str, Any], config: Config, explicit: frozenset[str]) -> list[str]:
    """What no shape shows but changes the meaning of the weights, where the original's text and `config` disagree."""
    pairs = [(field, facts[field], config_value(config, field)) for field in _MEANING if field in facts and field not in explicit]
    return [f"{field}: the file has {theirs}, the configuration says {ours}" for field, theirs, ours in pairs if theirs != ours]


def _with_file_classes(config: Config, state: Mapping[str, Tensor], classes: tuple[str, ...] | None, path: Path) -> Config:
    try:
        count = read_structure(shapes_of(state))["num_classes"]
        if classes is None and count == config.num_classes:
            return config
        names = class_names(count, classes)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return config.model_copy(update={"classes": names, "category_ids": category_ids(names)})


def _read(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None, KeyReport, Mapping[str, Any] | None]:
    """Weights under our names, class names if the file has them, what was done to get there, and the fields of the original's text."""
    if path.is_dir():
        config, state = from_pretrained(path)
        return state, config.classes, KeyReport(), None
    if path.suffix == ".safetensors":
        config = stored_config(path)
        return read_safetensors(path), config.classes if config else None, KeyReport(), None
    upgraded = read_mmdetection(path)
    return upgraded.weights, upgraded.classes, report_of(upgraded), upgraded.facts.fields


def report_of(upgraded: Upgraded) -> KeyReport:
    """What was renamed, reordered and dropped while reading a file of the original."""
    return KeyReport(
        renamed=tuple((theirs, ours) for ours, theirs in upgraded.renamed.items()),
        reordered=tuple(upgraded.reordered),
        dropped=tuple(upgraded.dropped),
        notes=tuple(upgraded.notes),
    )


def _load_file(path: Path, overrides: Overrides) -> LoadedWeights:
    """A file that brings its own configuration: ours in the metadata, the original's in shapes and text."""
    explicit = explicit_fields(overrides)
    if path.suffix == ".safetensors":
        state, config = read_safetensors(path), stored_config(path)
        config = config or _inferred(path, state, {}, None, None)
        return fit_weights(state, overlay(config, overrides), path, explicit)
    upgraded = read_mmdetection(path)
    facts = upgraded.facts.fields
    classes = tuple(overrides["classes"]) if "classes" in overrides else upgraded.classes
    config = overlay(_inferred(path, upgraded.weights, facts, classes, upgraded.experiment), overrides)
    # A flow that the file's own text turns off is off on purpose.
    return fit_weights(upgraded.weights, config, path, explicit | (frozenset(facts) & {"cascade.mask_flow"}), report_of(upgraded))


def _inferred(path: Path, state: Mapping[str, Tensor], facts: Mapping[str, Any], classes: tuple[str, ...] | None, experiment: str | None) -> Config:
    try:
        return infer_config(shapes_of(state), facts, classes, experiment)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
