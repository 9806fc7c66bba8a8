"""Which names of a pickle are known to be harmless.

Nothing here is ever imported on a pickle's behalf: a name only becomes an inert `Foreign` or selects one of our own
rebuilding functions. The list exists so that a file that *asks* for anything else is refused aloud instead of being
read around.
"""

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

# Packages whose objects the original's training runs left in checkpoints: message hubs, history buffers,
# configurations.
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

# A name reached through a historical package may still be somebody else's: "mmcv.os system", "mmengine.fileio
# subprocess.run".
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

_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def canonical(module: str, name: str) -> tuple[str, str]:
    """Python 2 module names as Python 3 spells them."""
    return _PYTHON_2.get(module, module), name


def is_historical(module: str) -> bool:
    """Whether the module belongs to a package of the original's family."""
    return module.split(".")[0] in HISTORICAL_PACKAGES


def is_harmless(module: str, name: str) -> bool:
    """Whether a pickle may name `module.name` (canonical names)."""
    if is_historical(module):
        return not SUSPICIOUS_PARTS.intersection([*module.split("."), *name.split(".")])
    if module == "numpy.dtypes":
        return name.isidentifier()
    return name in _HARMLESS.get(module, ())
