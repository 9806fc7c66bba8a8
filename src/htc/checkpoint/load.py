"""Load a model from a preset name, a model folder, a run folder or a weights file: configuration and state dict."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from htc.checkpoint.facts import NO_FACTS, UserFacts
from htc.checkpoint.fit import KeyReport, LoadedWeights, fit_weights, shapes_of
from htc.checkpoint.folder import CONFIG_FILE, model_folder, read_config
from htc.checkpoint.formats.base import ConvertedWeights
from htc.checkpoint.formats.detectron2 import is_detectron2, read_detectron2
from htc.checkpoint.formats.mmdetection import upgrade_mmdetection
from htc.checkpoint.formats.paddle import is_paddle, read_paddle
from htc.checkpoint.formats.torchvision import is_torchvision, read_torchvision
from htc.checkpoint.infer import category_ids, infer_config, stored_class_names
from htc.checkpoint.native import embedded_config, from_pretrained, is_safetensors, read_safetensors, save_pretrained
from htc.checkpoint.prefixes import split_choice
from htc.checkpoint.stored import Stored, read_stored, select
from htc.checkpoint.structure import config_value, read_structure
from htc.checkpoint.zoo import RELEASED, fetch
from htc.config import Config, CustomBackbone, ResNet
from htc.errors import CheckpointError, ConfigError
from htc.presets import PRESETS, preset
from htc.settings.layers import from_values, overlay

LOG = logging.getLogger("htc")
Overrides = Mapping[str, Any]
_SETTINGS = (
    *("cascade.delta_stds", "cascade.semantic_fusion", "cascade.mask_flow"),
    *(
        "rpn.anchor_scale",
        "rpn.anchor_ratios",
        "rpn.anchor_grid",
        "cascade.pooling",
        "backbone.stride_in",
        "input.mean",
        "input.std",
    ),
)
_OURS = ("roi.box_heads.", "rpn.objectness.")
"""Beginnings of names that only our own models have."""
_LEAVE = "pass the weights file as the model, so that its own configuration is used"


def load_model(
    model: str | Path,
    weights: str | Path | None = None,
    overrides: Overrides | None = None,
    facts: UserFacts = NO_FACTS,
) -> LoadedWeights:
    """Load the configuration and weights of a model.

    `model`: a preset name (with its released weights, or `weights`), a native or run folder, or a `.pth` /
    `.safetensors` file. `weights`: a file, a folder, or the name of a preset with released weights. FILE#NAME is one of
    several models in a file. `overrides`: nested configuration values set by the user; a value that contradicts the
    weights is an error, and disabling a part of the model drops its weights. `facts`: user-supplied facts about a file
    of another project. Raises `ConfigError` for unknown names and invalid values (before any download),
    `CheckpointError` for the weights.
    """
    overrides = overrides or {}
    if str(model) in PRESETS:
        config = overlay_file(preset(str(model)), overrides)
        return _load_with(config, _weights_of(str(model), weights), overrides, facts, from_preset=True)
    path = Path(split_choice(model)[0])
    if path.is_dir() and weights is not None:
        config = overlay_file(read_config(model_folder(path) / CONFIG_FILE), overrides)
        return _load_with(config, _located(weights), overrides, facts, from_preset=False)
    if path.exists():
        if weights is not None:
            raise ConfigError(
                f"{path} is already a weights file; remove --weights, or pass a preset name or a folder as the model"
            )
        return _load_alone(model, overrides, facts)
    if path.suffix or path.parent != Path():
        raise CheckpointError(f"{path}: no such file or folder")
    preset(str(model))  # unknown: raises with the nearest names
    raise AssertionError("an unknown name is not a preset")


def convert_checkpoint(
    source: str | Path, destination: Path, overrides: Overrides | None = None, facts: UserFacts = NO_FACTS
) -> LoadedWeights:
    """Convert any supported checkpoint to a native folder (`config.json`, `model.safetensors`) and return its content
    with a report of every key. Takes the arguments of `load_model`; raises its errors and `OutputError`.
    """
    loaded = load_model(source, overrides=overrides, facts=facts)
    save_pretrained(loaded.state_dict, loaded.config, destination)
    return loaded


def overlay_file(config: Config, overrides: Overrides) -> Config:
    """Return `config` with nested values applied; new class names get new category ids. Raises a `ConfigError` with all
    faults.
    """
    if "classes" in overrides and "category_ids" not in overrides and isinstance(overrides["classes"], list | tuple):
        overrides = {**overrides, "category_ids": category_ids(tuple(overrides["classes"]))}
    return overlay(config, from_values(overrides))


def explicit_fields(overrides: Overrides, prefix: str = "") -> frozenset[str]:
    """Return the dotted names of all nested overrides, including sections: {"semantic": {"classes": 2}} -> semantic,
    semantic.classes.
    """
    return frozenset(_dotted(overrides, prefix))


def _dotted(overrides: Overrides, prefix: str) -> Iterator[str]:
    for name, value in overrides.items():
        dotted = f"{prefix}{name}".replace("-", "_")
        yield dotted
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{dotted}.")


def _weights_of(name: str, weights: str | Path | None) -> str | Path:
    if weights is not None:
        return _located(weights)
    if name not in RELEASED:
        raise CheckpointError(
            f"{name}: there are no released weights for this preset; add --weights FILE, or train it with `htc train "
            f"--preset {name}`"
        )
    return fetch(name)


def _located(weights: str | Path) -> str | Path:
    if Path(split_choice(weights)[0]).exists():
        return weights
    if str(weights) in RELEASED:
        return fetch(str(weights))
    raise CheckpointError(f"{weights}: no such weights file")


@dataclass(frozen=True)
class _Source:
    """The content of a file or folder: weights under our names, and its configuration as far as it has one."""

    path: Path
    weights: dict[str, Tensor]
    report: KeyReport
    config: Config | None = None
    """Its own configuration, if it is in our format."""
    classes: tuple[str, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Dotted fields from mmdetection's configuration text."""
    experiment: str | None = None
    another_project: bool = False
    """Whether it is not from mmdetection, so that no preset describes it completely."""

    def value(self, name: str) -> Any:
        """Return the value of a field in its configuration, or None."""
        return self.facts.get(name) if self.config is None else config_value(self.config, name)


def _read(source: str | Path, stride_in: str | None, facts: UserFacts) -> _Source:
    """Read a file or folder, or one model of it (FILE#NAME). `stride_in` is that of the backbone, if known; some files
    need it, others need `facts`.
    """
    name, chosen = split_choice(source)
    path, config = Path(name), None
    if path.is_dir() or is_safetensors(path):
        config, tensors = from_pretrained(path) if path.is_dir() else (embedded_config(path), read_safetensors(path))
        custom = config is not None and isinstance(config.backbone, CustomBackbone)  # its names are the user's
        stored = select(path, tensors, chosen, inner=not custom)
    else:
        stored = read_stored(path, chosen)
    if stored.warning is not None:
        LOG.warning(stored.warning)
    if config is not None or any(name.startswith(_OURS) for name in stored.tensors):
        facts.check(path)
        weights = {name: t.float() if t.is_floating_point() else t for name, t in stored.tensors.items()}
        return _Source(path, weights, _report(stored, weights), config, config.classes if config else None)
    upgraded = _upgraded(stored, stride_in, facts)
    return _Source(
        path,
        upgraded.weights,
        report_of(upgraded, stored),
        None,
        upgraded.classes,
        upgraded.facts.fields,
        upgraded.experiment,
        upgraded.version is None,
    )


def _upgraded(stored: Stored, stride_in: str | None, facts: UserFacts) -> ConvertedWeights:
    """Convert a file of another project, which is detected by its parameter names."""
    if is_torchvision(stored.tensors):
        facts.check(stored.path, "norm_epsilon")
        return read_torchvision(stored, facts.norm_epsilon)
    if is_detectron2(stored.tensors):
        facts.check(stored.path, "colors")
        return read_detectron2(stored, stride_in, facts.colors)
    if is_paddle(stored.tensors):
        facts.check(stored.path)
        return read_paddle(stored)
    facts.check(stored.path, "colors")
    return upgrade_mmdetection(stored, facts.colors)


def report_of(upgraded: ConvertedWeights, stored: Stored) -> KeyReport:
    """Build the report of what was renamed, reordered and dropped while reading a file of another project."""
    return replace(
        _report(stored, upgraded.weights, upgraded.renamed),
        reordered=tuple(upgraded.reordered),
        dropped=(*stored.left_out, *((stored.names.get(name, name), reason) for name, reason in upgraded.dropped)),
        filled=tuple(upgraded.filled),
        notes=(*stored.notes, *upgraded.notes),
    )


def _report(stored: Stored, weights: Iterable[str], renamed: Mapping[str, str] = MappingProxyType({})) -> KeyReport:
    """Build the report of a file with our names; `renamed` maps our names to others, without prefixes of wrappers."""
    in_file = ((stored.names.get(renamed.get(ours, ours), ours), ours) for ours in weights)
    return KeyReport(
        renamed=tuple((theirs, ours) for theirs, ours in in_file if theirs != ours),
        dropped=stored.left_out,
        notes=stored.notes,
    )


def _load_with(
    config: Config, weights: str | Path, overrides: Overrides, facts: UserFacts, *, from_preset: bool
) -> LoadedWeights:
    """Load weights for a given configuration; if it is a preset, class names may come from the file."""
    explicit = explicit_fields(overrides)
    # A preset's default stride is not a fact about this file, so it must not replace what the file does not record.
    known = isinstance(config.backbone, ResNet) and (not from_preset or "backbone.stride_in" in explicit)
    source = _read(weights, config_value(config, "backbone.stride_in") if known else None, facts)
    if from_preset and not explicit & {"classes", "category_ids"}:
        config = _with_file_classes(config, source)
    lines = trained_otherwise(source, config, explicit)
    if lines:
        raise CheckpointError(
            "\n  ".join(
                [
                    f"{weights}: was trained with settings other than this configuration's ({config.preset})",
                    *lines,
                    _LEAVE,
                ]
            )
        )
    return fit_weights(source.weights, config, source.path, explicit, source.report)


def trained_otherwise(source: _Source, config: Config, explicit: frozenset[str]) -> list[str]:
    """Return a line for each field that no shape shows but that affects the weights, if the file's own configuration
    and `config` differ in it.
    """
    lines = []
    for name in _SETTINGS:
        theirs, ours = source.value(name), config_value(config, name)
        off = name == "cascade.semantic_fusion" and (
            config.semantic is None or (source.config is not None and source.config.semantic is None)
        )
        if theirs is not None and theirs != ours and name not in explicit and not off:
            lines.append(f"{name}: the file has {theirs}, the configuration has {ours}")
    return lines


def _with_file_classes(config: Config, source: _Source) -> Config:
    try:
        count = read_structure(shapes_of(source.weights))["num_classes"]
        if source.classes is None and count == config.num_classes:
            return config
        names = stored_class_names(count, source.classes)
    except CheckpointError as error:
        raise CheckpointError(f"{source.path}: {error}") from error
    ids = source.config.category_ids if source.config else category_ids(names)
    return config.replace(classes=names, category_ids=ids)


def _load_alone(model: str | Path, overrides: Overrides, facts: UserFacts) -> LoadedWeights:
    """Load a file or folder with its own configuration: that of our files, else inferred from shapes and text."""
    explicit = explicit_fields(overrides)
    backbone = overrides.get("backbone")
    source = _read(model, backbone.get("stride_in") if isinstance(backbone, Mapping) else None, facts)
    config = source.config
    if config is None:
        try:
            # Class names from the user replace the file's, even if the file's do not fit its weights.
            config = infer_config(
                shapes_of(source.weights),
                source.facts,
                None if "classes" in explicit else source.classes,
                source.experiment,
            )
        except CheckpointError as error:
            raise CheckpointError(f"{source.path}: {error}") from error
        if source.another_project:
            config = config.replace(preset="custom")
    # Mask flow that the file's own text disables counts as explicitly disabled.
    return fit_weights(
        source.weights,
        overlay_file(config, overrides),
        source.path,
        explicit | (frozenset(source.facts) & {"cascade.mask_flow"}),
        source.report,
    )
