"""The names that a pickle may use, and the inert values that they become.

Nothing that a pickle names is ever imported: a name only becomes an inert `Foreign` or selects one of our own
functions. Any name that is not listed is refused with an error.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from htc.errors import CheckpointError

TORCH_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}

# Packages whose objects are in checkpoints of mmdetection's training: message hubs, history buffers, configurations.
HISTORICAL_PACKAGES = frozenset(
    {
        "mmengine",
        "mmcv",
        "mmcv_custom",
        "mmdet",
        "mmdet3d",
        "mmcls",
        "mmpretrain",
        "mmseg",
        "mmpose",
        "mmrotate",
        "addict",
    }
)

# A name in a historical package may still refer to another module: "mmcv.os system", "mmengine.fileio subprocess.run".
SUSPICIOUS_PARTS = frozenset(
    {
        "os",
        "posix",
        "nt",
        "sys",
        "subprocess",
        "builtins",
        "__builtin__",
        "importlib",
        "runpy",
        "pty",
        "shutil",
        "socket",
        "ctypes",
    }
    | {
        "code",
        "codeop",
        "pickle",
        "marshal",
        "eval",
        "exec",
        "execfile",
        "compile",
        "system",
        "popen",
        "spawn",
        "getattr",
        "setattr",
    }
    | {"__import__", "__globals__", "__class__", "__subclasses__", "__reduce__"}
)

_NUMPY_NUMBERS = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool_",
    "bool",
)
_NUMPY = ("scalar", "_reconstruct", "ndarray", "dtype", "_frombuffer", *_NUMPY_NUMBERS)
_CONTAINERS = ("set", "frozenset", "list", "dict", "tuple", "bytes", "bytearray", "object", "slice", "range")
_HARMLESS: dict[str, tuple[str, ...]] = {
    "builtins": (*_CONTAINERS, "int", "float", "str", "bool", "complex"),
    "collections": ("OrderedDict", "defaultdict", "deque", "Counter"),
    "copyreg": ("_reconstructor",),
    "_codecs": ("encode",),
    "datetime": ("datetime", "date", "time", "timedelta", "timezone"),
    **dict.fromkeys(
        ("pathlib", "pathlib._local"), ("PosixPath", "WindowsPath", "Path", "PurePosixPath", "PureWindowsPath")
    ),
    "argparse": ("Namespace",),
    "torch": (*TORCH_STORAGES, *TORCH_STORAGES.values(), "Size", "device", "Tensor"),
    "torch.storage": ("UntypedStorage", "TypedStorage", "_UntypedStorage"),
    "torch._utils": ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"),
    "torch._tensor": ("_rebuild_from_type_v2", "Tensor"),
    "torch.nn.parameter": ("Parameter", "Buffer"),
    **dict.fromkeys(
        ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric"),
        _NUMPY,
    ),
}

_MODELS = {
    "torch.nn.modules": "",
    "ultralytics": " of Ultralytics YOLO",
    "models.yolo": " of YOLOv5 or YOLOv7",
    "models.common": " of YOLOv5 or YOLOv7",
    "yolox": " of YOLOX",
    "segmentation_models_pytorch": " of segmentation-models",
    "timm": " of timm",
    "torchvision": " of torchvision",
    "transformers": " of transformers",
    "detectron2": " of detectron2",
    "monai": " of MONAI",
    "__torch__": ", a TorchScript archive,",
}
"""Packages whose classes are models -> what the error adds."""

_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def canonical(module: str, name: str) -> tuple[str, str]:
    """Replace Python 2 module names by those of Python 3."""
    return _PYTHON_2.get(module, module), name


def is_historical(module: str) -> bool:
    """Return whether the module belongs to one of mmdetection's packages."""
    return module.split(".")[0] in HISTORICAL_PACKAGES


def is_harmless(module: str, name: str) -> bool:
    """Return whether a pickle may use `module.name` (canonical names)."""
    if is_historical(module):
        return not SUSPICIOUS_PARTS.intersection([*module.split("."), *name.split(".")])
    if module == "numpy.dtypes":
        return name.isidentifier()
    return name in _HARMLESS.get(module, ())


_MOST_DIMENSIONS = 64
_LARGEST = 2**62
_LONGEST_NAME = 100


class UnsafePickleError(CheckpointError):
    """The pickle uses something that no checkpoint needs."""


class DamagedPickleError(CheckpointError):
    """The bytes are not a complete pickle."""


@dataclass(frozen=True)
class Symbol:
    """A global that the pickle names; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Foreign:
    """An inert placeholder for an object of a known foreign class, with its arguments and state."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class StorageReference:
    """A flat buffer stored elsewhere in the file."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class TensorReference:
    """A tensor as a strided view of a stored buffer; offset and strides in elements."""

    storage: StorageReference
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def dict_key(value: Any) -> Any:
    """Check that a dict key can be hashed without recursion (deeply nested tuples overflow the C stack); return it."""
    if isinstance(value, tuple):
        for part in value:
            if not isinstance(part, str | int | float | bytes | type(None)):
                raise UnsafePickleError("a dictionary key is neither a string nor a number")
    elif not isinstance(value, str | int | float | bytes | Symbol | Foreign | type(None)):
        raise UnsafePickleError(f"a dictionary key is a {type(value).__name__}")
    return value


def describe_value(value: Any) -> str:
    """Describe the value for an error message."""
    return f"the global {value}" if isinstance(value, Symbol) else f"a {type(value).__name__}"


def printable(text: str) -> str:
    """Shorten text of a file for an error message and replace characters that could control a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST_NAME])


def symbol(module: str, name: str) -> Symbol:
    """Return a global by name if checkpoints may use it; `getattr` is allowed, but `rebuild` checks its arguments."""
    module, name = canonical(module, name)
    if (module, name) == ("builtins", "getattr") or is_harmless(module, name):
        return Symbol(module, name)
    library = next((of for package, of in _MODELS.items() if f"{module}.".startswith(f"{package}.")), None)
    if library is not None:
        raise UnsafePickleError(
            f"it contains a whole pickled model{library} ({printable(name)}) instead of weights: ask its author to "
            f"save model.state_dict()"
        )
    raise UnsafePickleError(
        f"its pickle uses {printable(f'{module}.{name}')}, which no checkpoint needs and which could execute code"
    )


def rebuild(target: Any, arguments: Any) -> Any:
    """Replace a call of `target` by our own reconstruction or a placeholder; raises `UnsafePickleError` otherwise."""
    if not isinstance(target, Symbol):
        raise UnsafePickleError(f"its pickle calls {describe_value(target)}")
    if not isinstance(arguments, tuple):
        raise TypeError("arguments are not a tuple")
    match str(target):
        case "builtins.getattr":
            return _attribute(*arguments)
        case "collections.OrderedDict" if not arguments:
            return OrderedDict()
        case "collections.defaultdict":
            return {}
        case "torch.Size" if isinstance(arguments[0], tuple):
            return arguments[0]
        case "builtins.tuple" if [type(each) for each in arguments] == [tuple]:
            # Paddle saves a tensor as a call of tuple with (name, array).
            return arguments[0]
        case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
            return _tensor(*arguments[:4])
        case "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state":
            return arguments[0]
        case "torch._tensor._rebuild_from_type_v2":
            return rebuild(arguments[0], arguments[2])
    return Foreign(str(target), arguments)


def _attribute(owner: Any, name: Any) -> Foreign:
    """Handle `getattr`, with which protocol 2 pickles a method of a class: allowed only for historical classes (used by
    history buffers).
    """
    if not (
        isinstance(owner, Symbol)
        and is_historical(owner.module)
        and isinstance(name, str)
        and is_harmless(owner.module, name)
    ):
        raise UnsafePickleError(
            f"its pickle uses builtins.getattr of {describe_value(owner)}, which could execute code"
        )
    return Foreign(f"{owner}.{name}")


def storage_reference(identity: Any) -> StorageReference:
    """Parse a persistent id of torch: ("storage", class, key, device, elements), in old files followed by a view of
    another storage.
    """
    if isinstance(identity, tuple) and identity[:1] == ("module",):
        raise UnsafePickleError(
            "it contains a whole pickled model instead of weights: ask its author to save model.state_dict()"
        )
    if not (
        isinstance(identity, tuple)
        and len(identity) >= 5
        and identity[0] == "storage"
        and isinstance(identity[1], Symbol)
    ):
        raise UnsafePickleError("a persistent id is not a torch storage")
    kind, key, numel = identity[1], identity[2], identity[4]
    if kind.module != "torch" or kind.name not in TORCH_STORAGES:
        raise UnsafePickleError(f"storages of type {kind} are not supported")
    if (
        not isinstance(key, str)
        or not isinstance(numel, int)
        or not 0 <= numel < _LARGEST
        or (len(identity) > 5 and identity[5] is not None)
    ):
        raise DamagedPickleError("a storage has an invalid key, size or view")
    return StorageReference(key, TORCH_STORAGES[kind.name], numel)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> TensorReference:
    """Return a tensor's description if all its elements lie within its storage and none is repeated."""
    if not (isinstance(storage, StorageReference) and isinstance(shape, tuple) and isinstance(stride, tuple)):
        raise DamagedPickleError("a tensor has no storage, shape or stride")
    plausible = len(shape) == len(stride) <= _MOST_DIMENSIONS
    if not plausible or not all(
        isinstance(value, int) and 0 <= value < _LARGEST for value in (offset, *shape, *stride)
    ):
        raise DamagedPickleError("a tensor has an invalid shape")
    count, last = 1, offset
    for size, step in zip(shape, stride, strict=True):
        count *= size
        last += (size - 1) * step
    if count > storage.numel or (count and last >= storage.numel):
        raise DamagedPickleError(f"a tensor of shape {shape} is larger than its stored values ({storage.numel})")
    return TensorReference(storage, offset, shape, stride)
