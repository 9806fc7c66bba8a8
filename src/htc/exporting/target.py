"""The files of an export: format by suffix, the certificate beside, and writing all of them or none.

Does not import torch, so that the command line can check a call first.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from htc.errors import ConfigError
from htc.extras import require
from htc.run_folders import require_new_file

SUFFIXES = {".onnx": "ONNX", ".xml": "OpenVINO"}
"""Formats by the suffix of the file."""
STRIDE = 32
"""Height and width of the network input are multiples of the largest stride."""


def check_target(
    file: Path, batch: int | None = None, size: Sequence[int] | None = None, *, raw_images: bool = False
) -> None:
    """Check the file and the shape before the model is loaded; raises `ConfigError`, `OutputError` and
    `InstallationError`.
    """
    if file.suffix not in SUFFIXES:
        known = ", ".join(f"{suffix} ({name})" for suffix, name in SUFFIXES.items())
        raise ConfigError(f"{file}: the suffix of the file is the format to export to: {known}")
    if batch is not None and batch < 1:
        raise ConfigError(f"batch is {batch}: give 1 or more, or leave it out for any number of images")
    if batch is not None and batch > 1 and raw_images:
        raise ConfigError("a file with raw_images takes one image a call, of any size: remove batch")
    if size is not None and (len(size) != 2 or any(side < STRIDE or side % STRIDE for side in size)):
        raise ConfigError(f"size is {tuple(size)}: give a height and a width that are multiples of {STRIDE}")
    require("export", "export", ("onnx", "onnxscript", "onnxruntime" if file.suffix == ".onnx" else "openvino"))
    weights = [file.with_suffix(".bin")] if file.suffix == ".xml" else [file.with_name(f"{file.name}.data")]
    for path in (file, *weights, certificate_path(file)):
        require_new_file(path, "FILE")


def certificate_path(file: Path) -> Path:
    """`model.onnx` -> `model.onnx.json`."""
    return file.with_name(f"{file.name}.json")


@contextmanager
def finished_together(file: Path) -> Iterator[Path]:
    """Yield a new folder beside `file`; files in it whose name begins with that of `file` are moved beside it at the
    end, `file` last. After an error, nothing is left.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{file.name}.", dir=file.parent))
    try:
        yield folder
        written = sorted(folder.glob(f"{file.stem}.*"), key=lambda path: path.name == file.name)
        for path in written:
            path.replace(file.with_name(path.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
