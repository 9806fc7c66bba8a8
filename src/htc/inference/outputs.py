"""Results on the disk: COCO result files, labelme files, drawings. A file appears whole or not at all."""

import errno
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from htc.errors import OutputError
from htc.results import Detections
from htc.visual.drawing import enlargement

REMEDIES = {
    errno.ENOSPC: "the disk is full: make room, or name a place on another disk",
    errno.EDQUOT: "the disk quota is used up: make room, or name another place",
    errno.EFBIG: "the file would be larger than this system or session allows: raise the limit (ulimit -f), or write less",
    errno.EACCES: "no permission to write there: name another place",
    errno.EPERM: "no permission to write there: name another place",
    errno.EROFS: "that disk is read-only: name another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder: name another place",
    errno.EEXIST: "a part of the path is a file, not a folder: name another place",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENAMETOOLONG: "the name is too long: name a shorter one",
}
JPEG = (".jpg", ".jpeg")
JPEG_SIDE = 65_500
"""Pixels: the longest side that the format can hold."""


class Writer:
    """Bytes into a file that is not there yet; raises `OutputError`."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path

    def write(self, content: bytes | memoryview) -> None:
        """Appends."""
        with _explained(self._path):
            self._stream.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[Writer]:
    """A file to write that takes its name only when all is written; after an error or interruption nothing is left of it.

    Folders on the way are made. Raises `OutputError` that names the file, the reason and the remedy.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        stream = temporary.open("wb")
    try:
        yield Writer(stream, path)
        with _explained(path):
            stream.close()
            temporary.replace(path)
    finally:
        with suppress(OSError):
            stream.close()  # a full disk would complain once more about what is still buffered
        temporary.unlink(missing_ok=True)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, f"{error.strerror or error}: name another place")
        raise OutputError(f"cannot write {path}: {remedy}") from error


class ResultsFile:
    """A COCO result file, one list, that grows picture by picture; use inside `with results_file(path)`."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.count = 0

    def add(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Appends results, one a line."""
        for result in results:
            self._writer.write((",\n" if self.count else "[\n").encode() + json.dumps(result, allow_nan=False, ensure_ascii=False).encode())
            self.count += 1

    def finish(self) -> None:
        """Closes the list."""
        self._writer.write(b"\n]\n" if self.count else b"[]\n")


@contextmanager
def results_file(path: Path) -> Iterator[ResultsFile]:
    """A COCO result file that appears when the block ends well; raises `OutputError`."""
    with whole_file(path) as writer:
        results = ResultsFile(writer)
        yield results
        results.finish()


def write_json(path: Path, content: Any) -> None:
    """Writes readable JSON; raises `OutputError`."""
    with whole_file(path) as writer:
        writer.write(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n")


def write_labelme(folder: Path, name: str, found: Detections, tolerance: float = 0.75) -> Path:
    """`folder/<name without suffix>.json` for labelme, which finds the picture by its relative path; returns the path."""
    path = (folder / name).with_suffix(".json")
    write_json(path, found.to_labelme(_relative(found.source or name, path.parent), tolerance))
    return path


def write_drawing(folder: Path, name: str, found: Detections, picture: UInt8[np.ndarray, "H W 3"], *, labels: bool = True) -> Path:
    """The picture with its detections, as `folder/<name>`; small pictures are enlarged. JPEG for a JPEG, PNG for all else."""
    drawing = found.draw(picture, labels=labels, scale=enlargement(found.size))
    path = folder / name
    if path.suffix.lower() not in (*JPEG, ".png") or (path.suffix.lower() in JPEG and max(drawing.shape) > JPEG_SIDE):
        path = path.with_name(path.name + ".png")
    write_picture(path, drawing)
    return path


def write_picture(path: Path, picture: UInt8[np.ndarray, "H W 3"]) -> None:
    """An RGB picture as JPEG or PNG, by its suffix; raises `OutputError`."""
    encoded = io.BytesIO()
    if path.suffix.lower() in JPEG:
        Image.fromarray(picture).save(encoded, "JPEG", quality=93, subsampling=0)
    else:
        Image.fromarray(picture).save(encoded, "PNG", compress_level=4)
    with whole_file(path) as writer:
        writer.write(encoded.getbuffer())


def _relative(source: str, folder: Path) -> str:
    """From `folder` to the picture; absolute where there is no way (another drive)."""
    try:
        return Path(os.path.relpath(source, folder)).as_posix()
    except ValueError:
        return Path(source).absolute().as_posix()
