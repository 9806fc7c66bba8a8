"""Prefixes of parameter names that wrappers add, and the choice between several models in one file.

Parallel training, `torch.compile` and training frameworks prepend names: `module.`, `_orig_mod.`, `model.`.
Semi-supervised training and EMA store several models in one file: `teacher.` and `student.`. A model is found by the
classifier of its RPN, which every supported detector has exactly once. Does not import torch, so that the command line
can split FILE#NAME first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from htc.errors import CheckpointError

_RPN = (
    "rpn.objectness.weight",
    "rpn_head.rpn_cls.weight",
    "rpn_head.conv_cls.weight",
    "rpn_head.rpn_rois_score.weight",
    "rpn.head.cls_logits.weight",
    "proposal_generator.rpn_head.objectness_logits.weight",
)
"""The classifier of the RPN: ours, mmdetection's (plain and with guided anchoring), Paddle's, torchvision's and
detectron2's.
"""
_INNER = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"))
"""Wrappers that may also be around parts of a model; no layer has such a name."""
_NAMELESS = _INNER | {"module", "model", "detector", "net", "network", "objective", "lightning_module", "state_dict"}
"""Parts of a prefix that do not distinguish a model from others in the same file."""
_SEPARATOR = "#"


@dataclass(frozen=True)
class NamedModel:
    """One of the models in a file."""

    container: str
    """Key of the dictionary in the file that contains its tensors, with dots between levels; "" for the top level."""
    prefix: str
    """What precedes its names there; "", or it ends with a dot."""
    names: Mapping[str, str]
    """Name without prefix and wrappers -> name in the container."""

    @property
    def path(self) -> str:
        """Container and prefix, without the last dot."""
        return ".".join(part for part in (self.container, self.prefix.removesuffix(".")) if part)

    @property
    def label(self) -> str:
        """The parts of `path` that are a name of its own; "" without any."""
        return ".".join(part for part in self.path.split(".") if part not in _NAMELESS)

    @property
    def shown(self) -> str:
        """Its name for FILE#NAME and messages."""
        return self.label or self.path or "model"


@dataclass(frozen=True)
class ChosenModel:
    """The model in a file that is loaded, and what was done to get it."""

    container: str
    names: Mapping[str, str]
    """Name without prefix and wrappers -> name in the container."""
    left_out: tuple[tuple[str, str], ...] = ()
    """(name in the container, reason) of the tensors that do not belong to the model."""
    notes: tuple[str, ...] = ()
    warning: str | None = None
    """A choice between several models that the user did not make."""


def split_choice(source: str | PathLike[str]) -> tuple[str, str | None]:
    """Split FILE#NAME into the path and the name of a model in it; a path that exists is not split."""
    text = str(source)
    path, _, name = text.rpartition(_SEPARATOR)
    if not path or not name or Path(text).exists() or not Path(path).exists():
        return text, None
    return path, name


def absolute_source(source: str | PathLike[str]) -> str:
    """Return a model or weights source with an absolute path, if it is one that exists; else it is a name."""
    path, name = split_choice(source)
    if not Path(path).exists():
        return path
    return str(Path(path).absolute()) + (f"{_SEPARATOR}{name}" if name else "")


def choose_model(
    containers: Mapping[str, Iterable[str]],
    source: Path,
    chosen: str | None = None,
    same: Callable[[NamedModel, NamedModel], bool] = lambda _one, _other: False,
    *,
    inner: bool = True,
) -> ChosenModel | None:
    """Select a model by the names of the tensors in a file; None if there is no model of a supported library.

    `chosen`: the NAME of FILE#NAME; without it, the only model, or the only one without a name of its own. `same` says
    whether two models have the same tensors, which then count once. `inner`: also remove wrappers inside the names.
    Raises `CheckpointError` if the file has no model of this name, or several without a choice.
    """
    models = _distinct(
        [model for key, names in containers.items() for model in _models(key, list(names), inner=inner)], same
    )
    if not models:
        if chosen is not None:
            raise CheckpointError(f"{source}: no model named {chosen}: remove {_SEPARATOR}{chosen}")
        return None
    model, warning = _selected(models, source, chosen)
    own = set(model.names.values())
    reason = f"not of the model {model.shown}" if model.prefix else "of another model in the file"
    left_out = tuple((name, reason) for name in containers[model.container] if name not in own)
    return ChosenModel(model.container, model.names, left_out, (*_notes(model), *filter(None, [warning])), warning)


def without_common_prefix(names: Iterable[str]) -> dict[str, str]:
    """Map names without the parts that all of them begin with to the names; the last part of a name is kept."""
    result = {name: name for name in names}
    while len(result) > 1 and len({name.partition(".")[0] for name in result}) == 1 and all("." in n for n in result):
        result = {name.partition(".")[2]: original for name, original in result.items()}
    return result


def _models(container: str, names: Sequence[str], *, inner: bool) -> list[NamedModel]:
    """Find the models of one dictionary, the one with the shortest prefix first."""
    plain = {(_without_wrappers(name) if inner else name): name for name in names}
    prefixes: dict[str, str] = {}
    for name, original in plain.items():
        layer = next((one for one in _RPN if name == one or name.endswith(f".{one}")), None)
        if layer is not None:
            prefixes[name.removesuffix(layer)] = original[: original.rfind(layer.split(".")[0])]
    found = []
    for prefix in sorted(prefixes, key=len):
        deeper = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        own = {
            name.removeprefix(prefix): original
            for name, original in plain.items()
            if name.startswith(prefix) and not (deeper and name.startswith(deeper))
        }
        found.append(NamedModel(container, prefixes[prefix], own))
    return found


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _INNER) if "_" in name else name


def _distinct(models: Sequence[NamedModel], same: Callable[[NamedModel, NamedModel], bool]) -> list[NamedModel]:
    """Drop a model that is in the file a second time, as a module that a training contains twice."""
    kept: list[NamedModel] = []
    for model in models:
        alike = (one for one in kept if one.label == model.label and one.names.keys() == model.names.keys())
        if not any(same(one, model) for one in alike):
            kept.append(model)
    return kept


def _selected(models: Sequence[NamedModel], source: Path, chosen: str | None) -> tuple[NamedModel, str | None]:
    """Return the model to load, and a warning if others could have been meant."""
    listed = ", ".join(_described(model) for model in models)
    if chosen is not None:
        named = [model for model in models if chosen in (model.path, model.shown)]
        if len(named) != 1:
            count = "more than one" if named else "no"
            raise CheckpointError(f"{source}: contains {count} model named {chosen}; it has {listed}")
        return named[0], None
    if len(models) == 1:
        return models[0], None
    nameless = [model for model in models if not model.label]
    labels = [model.shown for model in models]
    choices = [
        f"{source}{_SEPARATOR}{model.shown if labels.count(model.shown) == 1 else model.path}" for model in models
    ]
    if len(nameless) != 1:
        raise CheckpointError(f"{source}: contains {len(models)} models: {listed}. Choose one: {' or '.join(choices)}")
    others = " or ".join(choice for choice, model in zip(choices, models, strict=True) if model.label)
    return nameless[0], (
        f"{source}: contains {len(models)} models: {listed}. {nameless[0].shown} is loaded; for another, pass {others}"
    )


def _described(model: NamedModel) -> str:
    return f"{model.shown} ({f'names begin with {model.path}.' if model.path else 'names without a prefix'})"


def _notes(model: NamedModel) -> list[str]:
    notes = [f"the prefix {model.prefix} of the names in the file was removed"] if model.prefix else []
    wrapped = {
        part
        for original in model.names.values()
        for part in _INNER.intersection(original.removeprefix(model.prefix).split("."))
    }
    return [*notes, *(f"the wrapper {part}. inside names was removed" for part in sorted(wrapped))]
