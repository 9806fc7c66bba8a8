"""Read the tensors of a weights file of any project, under its own names, without executing anything in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from htc.checkpoint.safe_pickle.numpy_arrays import arrays_in, read_array_pickle
from htc.checkpoint.safe_pickle.torch_file import TorchFile, is_plain_pickle, open_torch_file
from htc.checkpoint.safe_pickle.values import Foreign, TensorReference
from htc.errors import CheckpointError

_INSIDE = ("state_dict", "model")
"""Keys under which training checkpoints store the weights."""


@dataclass(frozen=True)
class Stored:
    """The content of a weights file."""

    path: Path
    tensors: Mapping[str, Tensor]
    """Tensors by name, without the prefix of data-parallel training."""
    names: Mapping[str, str]
    """These names -> names in the file."""
    content: Any
    """The whole content, with references in place of tensors."""


def read_stored(path: Path) -> Stored:
    """Read a weights file, whose format is detected from the content, not the extension. Raises `CheckpointError` for
    files that are damaged, refused, or contain no named tensors.
    """
    if is_plain_pickle(path):
        return _read_arrays(path)
    file = open_torch_file(path)
    state = _state(file)
    wrong = [name for name, value in state.items() if not isinstance(value, TensorReference)]
    if wrong:
        raise CheckpointError(f"{path}: {wrong[0]!r} in its state_dict is not a tensor; save a plain state_dict")
    names = {name.removeprefix("module."): name for name in state}
    return Stored(path, file.tensors({name: state[theirs] for name, theirs in names.items()}), names, file.content)


def _read_arrays(path: Path) -> Stored:
    """Read a pickle of NumPy arrays."""
    content = read_array_pickle(path)
    inside = entries(content)
    tensors = arrays_in(path, next((state for key in _INSIDE if (state := entries(inside.get(key)))), inside))
    if not tensors:
        raise CheckpointError(
            f"{path}: a pickle, but neither of torch.save nor with named arrays, so not a checkpoint of detectron2 or "
            f"Paddle"
        )
    return Stored(path, tensors, {name: name for name in tensors}, content)


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
    if not all(isinstance(name, str) and name.isprintable() for name in state):
        raise CheckpointError(f"{file.path}: a tensor in its state_dict has no readable name; save a plain state_dict")
    return state
