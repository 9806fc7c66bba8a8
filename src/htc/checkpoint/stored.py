"""Read the tensors of a weights file of any project, under its own names, without executing anything in it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from htc.checkpoint.foreign import require_supported
from htc.checkpoint.prefixes import ChosenModel, NamedModel, choose_model, without_common_prefix
from htc.checkpoint.safe_pickle.numpy_arrays import arrays_in, read_array_pickle
from htc.checkpoint.safe_pickle.torch_file import TorchFile, is_plain_pickle, open_torch_file
from htc.checkpoint.safe_pickle.values import Foreign, TensorReference
from htc.errors import CheckpointError

_INSIDE = ("state_dict", "model")
"""Keys under which training checkpoints store the weights."""
_DEPTH = 3
"""Levels of dictionaries that are searched for models."""


@dataclass(frozen=True)
class Stored:
    """The content of a weights file."""

    path: Path
    tensors: Mapping[str, Tensor]
    """Tensors by name, without the prefixes of wrappers."""
    names: Mapping[str, str]
    """These names -> names in the file."""
    content: Any
    """The whole content, with references in place of tensors."""
    left_out: tuple[tuple[str, str], ...] = ()
    """(name in the file, reason) of tensors that do not belong to the model."""
    notes: tuple[str, ...] = ()
    warning: str | None = None
    """A choice between several models in the file that the user did not make."""


def read_stored(path: Path, chosen: str | None = None) -> Stored:
    """Read a weights file, whose format is detected from the content, not the extension; `chosen` is one of several
    models in it. Raises `CheckpointError` for files that are damaged, refused, or contain no named tensors, and for
    models of other libraries.
    """
    if is_plain_pickle(path):
        return _read_arrays(path, chosen)
    file = open_torch_file(path)
    containers = _containers(file.content)
    readable = {key: [name for name in inside if isinstance(name, str)] for key, inside in containers.items()}
    model = choose_model(readable, path, chosen, lambda one, other: _same(containers, one, other))
    state = _state(file) if model is None else containers[model.container]
    if not all(isinstance(name, str) and name.isprintable() for name in state):
        raise CheckpointError(f"{path}: a tensor in its state_dict has no readable name; save a plain state_dict")
    names = without_common_prefix(state) if model is None else model.names
    wrong = [name for name in names.values() if not _is_tensor(state[name])]
    if wrong:
        raise CheckpointError(f"{path}: {wrong[0]!r} in its state_dict is not a tensor; save a plain state_dict")
    if model is None:
        require_supported(path, list(names))
    references = {name: state[theirs] for name, theirs in names.items()}
    return _stored(path, file.tensors(references), names, file.content, model)


def select(path: Path, tensors: Mapping[str, Tensor], chosen: str | None = None, *, inner: bool = True) -> Stored:
    """Select a model from the tensors of a file without further content, such as a `.safetensors` file."""

    def same(one: NamedModel, other: NamedModel) -> bool:
        return all(tensors[one.names[name]].equal(tensors[other.names[name]]) for name in one.names)

    model = choose_model({"": tensors}, path, chosen, same, inner=inner)
    names = without_common_prefix(tensors) if model is None else model.names
    if model is None:
        require_supported(path, list(names))
    return _stored(path, {name: tensors[theirs] for name, theirs in names.items()}, names, {}, model)


def _stored(
    path: Path, tensors: Mapping[str, Tensor], names: Mapping[str, str], content: Any, model: ChosenModel | None
) -> Stored:
    if model is None:
        return Stored(path, tensors, names, content)
    return Stored(path, tensors, names, content, model.left_out, model.notes, model.warning)


def _read_arrays(path: Path, chosen: str | None) -> Stored:
    """Read a pickle of NumPy arrays."""
    content = read_array_pickle(path)
    inside = entries(content)
    tensors = arrays_in(path, next((state for key in _INSIDE if (state := entries(inside.get(key)))), inside))
    if not tensors:
        raise CheckpointError(
            f"{path}: a pickle, but neither of torch.save nor with named arrays, so not a checkpoint of detectron2 or "
            f"Paddle"
        )
    return replace(select(path, tensors, chosen), content=content)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, TensorReference)


def _containers(content: Any) -> dict[str, Mapping[Any, Any]]:
    """Return every dictionary with tensors in the file by its key, with dots between levels; "" is the file itself."""
    found: dict[str, Mapping[Any, Any]] = {}
    level, seen = {"": entries(content)}, set[int]()
    for _ in range(_DEPTH):
        below: dict[str, Mapping[Any, Any]] = {}
        for key, inside in level.items():
            if id(inside) in seen:  # a dictionary may be in a hostile file any number of times
                continue
            seen.add(id(inside))
            if any(map(_is_tensor, inside.values())):
                found[key] = inside
            below |= {
                f"{key}.{name}" if key else name: deeper
                for name, value in inside.items()
                if isinstance(name, str) and (deeper := entries(value))
            }
        level = below
    return found


def _same(containers: Mapping[str, Mapping[str, Any]], one: NamedModel, other: NamedModel) -> bool:
    """Return whether the two models share all their stored values."""
    return all(
        containers[one.container][one.names[name]] == containers[other.container][other.names[name]]
        for name in one.names
    )


def entries(value: Any) -> Mapping[Any, Any]:
    """Return the items of a dictionary or of a placeholder for one; empty for anything else."""
    if isinstance(value, Foreign):
        return value.entries
    return value if isinstance(value, Mapping) else {}


def _state(file: TorchFile) -> Mapping[str, Any]:
    """Return the state dict in the file, or the content itself if it is one."""
    content = entries(file.content)
    if isinstance(file.content, Foreign) and not content:
        raise CheckpointError(
            f"{file.path}: contains a {file.content.name} object instead of weights; save model.state_dict() instead "
            f"of the model"
        )
    state = next((inside for key in _INSIDE if (inside := entries(content.get(key)))), content)
    if not any(isinstance(value, TensorReference) for value in state.values()):
        raise CheckpointError(
            f"{file.path}: contains no state_dict with tensors, so it is not a checkpoint of mmdetection, detectron2 "
            f"or torchvision"
        )
    return state
