"""JSON files that somebody else wrote, and files of our own that appear whole or not at all."""

import errno
import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from htc.errors import DataError, OutputError

REMEDIES = {
    errno.ENOSPC: "the disk is full: make room, or name a place on another disk",
    errno.EDQUOT: "the disk quota is used up: make room, or name another place",
    errno.EFBIG: "the file would be larger than this system or session allows: raise the limit (ulimit -f), or "
    "write less",
    errno.EACCES: "no permission to write there: name another place",
    errno.EPERM: "no permission to write there: name another place",
    errno.EROFS: "that disk is read-only: name another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder: name another place",
    errno.EEXIST: "a part of the path is a file, not a folder: name another place",
    errno.EISDIR: "it is a folder: name a file",
    errno.ENAMETOOLONG: "the name is too long: name a shorter one",
}


class Writer:
    """Bytes into a file that is not there yet; raises `OutputError`."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path

    def write(self, content: bytes | memoryview) -> None:
        """Appends."""
        with _explained(self._path):
            self._stream.write(content)

    def flush(self) -> None:
        """Hands what is written so far to the system."""
        with _explained(self._path):
            self._stream.flush()

    def sync(self) -> None:
        """Waits until what is written is on the disk: it then outlives a loss of power too."""
        with _explained(self._path):
            self._stream.flush()
            os.fsync(self._stream.fileno())


@contextmanager
def whole_file(path: Path) -> Iterator[Writer]:
    """A file to write that takes its name only when all is written; after an error or interruption nothing is left of
    it.

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


def write_json(path: Path, content: Any) -> None:
    """Writes readable JSON; raises `OutputError`."""
    with whole_file(path) as writer:
        writer.write(json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n")


def write_text(path: Path, content: str) -> None:
    """Writes UTF-8 text; raises `OutputError`."""
    with whole_file(path) as writer:
        writer.write(content.encode())


@contextmanager
def uncollected() -> Iterator[None]:
    """Pauses the garbage collection: of the many small objects that a large file becomes none is garbage, yet each
    round would visit them all.
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


@uncollected()
def read_json(path: Path, kind: str) -> Any:
    """The content; `kind` names the expected file in the error. Raises `DataError` if the file is missing, damaged or
    cannot be read.
    """
    if path.is_dir() or not path.exists():  # a pipe is neither a folder nor a regular file, and can be read
        raise DataError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}; give {kind}")
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}); export or download it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
