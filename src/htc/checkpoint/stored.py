"""The tensors of a weights file under its own names, whoever wrote it; nothing of the file is run."""

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
"""Where training runs keep the weights beside their own state."""


@dataclass(frozen=True)
class Stored:
    """What a file holds."""

    path: Path
    tensors: Mapping[str, Tensor]
    """Names without the prefix of parallel training."""
    names: Mapping[str, str]
    """Those names -> as they are in the file."""
    content: Any
    """All of the file, tensors as references."""


def read_stored(path: Path) -> Stored:
    """Its kind is told by its content, not by its suffix. Raises `CheckpointError` for files that are damaged,
    refused, or hold no tensors by name.
    """
    if is_plain_pickle(path):
        return _read_arrays(path)
    file = open_torch_file(path)
    state = _state(file)
    wrong = [name for name, value in state.items() if not isinstance(value, TensorReference)]
    if wrong:
        raise CheckpointError(f"{path}: {wrong[0]!r} in its state_dict is no tensor; this is not a plain checkpoint")
    names = {name.removeprefix("module."): name for name in state}
    return Stored(path, file.tensors({name: state[theirs] for name, theirs in names.items()}), names, file.content)


def _read_arrays(path: Path) -> Stored:
    """A pickle of NumPy arrays."""
    content = read_array_pickle(path)
    inside = entries(content)
    tensors = arrays_in(path, next((state for key in _INSIDE if (state := entries(inside.get(key)))), inside))
    if not tensors:
        raise CheckpointError(
            f"{path}: a pickle, but not one of torch.save, and with no arrays by name in it; this is no checkpoint of "
            f"detectron2 or Paddle"
        )
    return Stored(path, tensors, {name: name for name in tensors}, content)


def entries(value: Any) -> Mapping[Any, Any]:
    """The items of a dictionary, or of a placeholder for one; none of anything else."""
    if isinstance(value, Foreign):
        return value.entries
    return value if isinstance(value, Mapping) else {}


def _state(file: TorchFile) -> Mapping[str, Any]:
    """The state dict; the file itself may be one."""
    content = entries(file.content)
    if isinstance(file.content, Foreign) and not content:
        raise CheckpointError(
            f"{file.path}: holds a {file.content.name} object instead of weights; save model.state_dict() in place of "
            f"the model"
        )
    state = next((inside for key in _INSIDE if (inside := entries(content.get(key)))), content)
    if not any(isinstance(value, TensorReference) for value in state.values()):
        raise CheckpointError(
            f"{file.path}: no state_dict with tensors in it; this is not a checkpoint of the original"
        )
    if not all(isinstance(name, str) and name.isprintable() for name in state):
        raise CheckpointError(
            f"{file.path}: a tensor in its state_dict has no readable name; this is not a plain checkpoint"
        )
    return state
