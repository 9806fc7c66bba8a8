"""Read pickles of NumPy arrays (detectron2's `.pkl`, Paddle's `.pdparams`) as data; no function that the file names is
called.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htc.checkpoint.safe_pickle.unpickle import Bounded, PickleMachine
from htc.checkpoint.safe_pickle.values import DamagedPickleError, Foreign, UnsafePickleError
from htc.errors import CheckpointError

_TYPES = {
    "f2": torch.float16,
    "f4": torch.float32,
    "f8": torch.float64,
    "i1": torch.int8,
    "i2": torch.int16,
    "i4": torch.int32,
    "i8": torch.int64,
    "u1": torch.uint8,
    "b1": torch.bool,
}
_ARRAYS = ("._reconstruct", "._frombuffer")
_REMEDY = "download or copy it again"


def read_array_pickle(path: Path) -> Any:
    """Read the content of the pickle, with arrays as placeholders that `tensor_of` converts.

    Raises `CheckpointError` for files that are missing, damaged, or that use a name which no checkpoint needs.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder, not a weights file' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as file:
            return PickleMachine().run(Bounded(file, path.stat().st_size))
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{path}: refused: {error}. Nothing in it was executed. Use weights from a source you trust"
        ) from error
    except DamagedPickleError as error:
        raise CheckpointError(f"{path}: damaged or truncated: {error}; {_REMEDY}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def arrays_in(path: Path, entries: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return the arrays among the entries, by name. Raises `CheckpointError` for unreadable names and incomplete
    arrays.
    """
    tensors = {}
    for name, value in entries.items():
        # Paddle stores some tensors as (name, array).
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if not (isinstance(array, Foreign) and array.name.endswith(_ARRAYS)):
            continue
        if not (isinstance(name, str) and name.isprintable()):
            raise CheckpointError(f"{path}: an array in it has no readable name; save a plain state_dict")
        try:
            tensors[name] = tensor_of(array)
        except DamagedPickleError as error:
            raise CheckpointError(f"{path}: {name}: {error}; {_REMEDY}") from error
    return tensors


def tensor_of(array: Foreign) -> Tensor:
    """Convert an array to a tensor with the same type and values. Raises `DamagedPickleError` if its bytes do not fit
    its shape.
    """
    if array.name.endswith("._frombuffer"):
        values, kind, shape, order = (*array.arguments, None, None, None, None)[:4]
        fortran = order == "F"
    else:
        _, shape, kind, fortran, values = (
            array.state if isinstance(array.state, tuple) and len(array.state) == 5 else (None,) * 5
        )
    content, dtype = _bytes(values), _dtype(kind)
    if not (isinstance(shape, tuple) and all(isinstance(size, int) and size >= 0 for size in shape)):
        raise DamagedPickleError("an array has no shape")
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise DamagedPickleError(f"an array of shape {shape} has {len(content)} bytes")
    flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
    return flat.view(shape[::-1]).permute(*reversed(range(len(shape)))) if fortran else flat.view(shape)


def _bytes(values: Any) -> bytes:
    # Protocol 2 has no bytes type: bytes are stored as text to encode.
    if isinstance(values, Foreign) and values.name == "_codecs.encode" and isinstance(values.arguments[0], str):
        return values.arguments[0].encode("latin1", "replace")
    if not isinstance(values, bytes | bytearray):
        raise DamagedPickleError("an array has no values")
    return bytes(values)


def _dtype(kind: Any) -> torch.dtype:
    code = kind.arguments[0] if isinstance(kind, Foreign) and kind.name == "numpy.dtype" and kind.arguments else None
    order = (
        kind.state[1] if isinstance(kind, Foreign) and isinstance(kind.state, tuple) and len(kind.state) > 1 else "<"
    )
    if code not in _TYPES or order not in ("<", "|", "="):
        raise DamagedPickleError(f"arrays of type {order}{code} are not supported")
    return _TYPES[code]
