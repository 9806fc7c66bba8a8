"""Optional dependencies: which extra of `hybrid-task-cascade` installs which package, and the error for a missing one.

A function that needs an extra calls `require` before it imports one of its packages, so that `htc train` without
Lightning reports the command that installs it instead of a traceback.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType

from htc.errors import InstallationError

_EVALUATE = {"faster_coco_eval": "faster-coco-eval", "matplotlib": "matplotlib", "jinja2": "jinja2"}
EXTRAS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "evaluate": _EVALUATE,
        "train": {**_EVALUATE, "lightning": "lightning"},
        "vis": {"supervision": "supervision"},
        "heic": {"pillow_heif": "pillow-heif"},
        "tensorboard": {"tensorboard": "tensorboard"},
        "wandb": {"wandb": "wandb"},
        "mlflow": {"mlflow": "mlflow-skinny", "sqlalchemy": "sqlalchemy", "alembic": "alembic"},
        "export": {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime", "openvino": "openvino"},
    }
)
"""Packages of each extra of pyproject.toml: {module: distribution that installs it}."""


def require(extra: str, purpose: str, modules: Sequence[str] | None = None) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        extra: the extra that `purpose` needs.
        purpose: the subject of the error message, such as "training".
        modules: the required modules of the extra. `None`: all.

    Raises:
        InstallationError: a package is missing; the message has the command that installs it.

    Example:
        >>> require("train", "training")
    """
    packages = EXTRAS[extra]
    missing = [packages[name] for name in packages if (modules is None or name in modules) and not _is_installed(name)]
    if missing:
        listed = ", ".join(missing[:-1]) + (" and " if missing[:-1] else "") + missing[-1]
        verb = "is" if len(missing) == 1 else "are"
        raise InstallationError(
            f"{purpose} needs {listed}, which {verb} not installed: pip install 'hybrid-task-cascade[{extra}]'"
        )


def _is_installed(module: str) -> bool:
    spec = find_spec(module)
    return spec is not None and spec.origin is not None  # W&B creates folders named wandb, which are not the package
