"""Cache of the columns of large annotation files, mapped into memory: one copy for all processes of a machine.

An entry is named by the content of its annotation file, the format and the version of the package, and is complete or
absent. It is checked with its hash once, by the process that reads the annotation file; worker processes only map it.
Without a writable folder every process has its own columns.

`HTC_ANNOTATION_CACHE` is another folder, or `off`; the default is `annotations` in the cache folder (`HTC_CACHE`).
"""

import hashlib
import json
import logging
import mmap
import os
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from htc.data.columns import ARRAYS, Columns
from htc.data.strict_coco import read_strictly
from htc.errors import DataError, OutputError
from htc.files import cache_folder, whole_file

LOG = logging.getLogger("htc")
VARIABLE = "HTC_ANNOTATION_CACHE"
OFF = frozenset(("off", "0", "none", "no", "false"))
FORMAT = 3
"""Increased when the columns, or the rules for filling them, change."""
SMALLEST = 16 * 2**20
"""Bytes of an annotation file from which its columns are cached; smaller ones are read in less than a second."""
LIMIT = 8 * 2**30
"""Bytes of all entries; the ones that were not used for the longest time are removed."""
ABANDONED = 24 * 3600
"""Age in seconds of an unfinished file that an interrupted process left."""
WAIT = 600
"""Seconds to wait for another process that reads the same file."""
MAGIC = b"HTCCOLS1"
HEADER = struct.Struct("<8sQ")
ALIGNED = 64
BLOCK = 4 * 2**20
ENDING = ".columns"


def read_columns(file: Path) -> Columns | None:
    """The columns of a COCO instance file, from the cache if it is large; None if it must be read tolerantly.

    Raises `OSError` if the file cannot be read.
    """
    if not file.is_file():  # a pipe can be read only once
        return None
    folder = annotation_cache() if file.stat().st_size >= SMALLEST else None
    if folder is None:
        return read_strictly(file.read_bytes())
    entry = folder / f"{_digest(file)}-{FORMAT}-{version('hybrid-task-cascade')}{ENDING}"
    columns = _valid(entry)
    if columns is not None:
        return columns
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{entry}.lock", timeout=WAIT):
            columns = _valid(entry) or read_strictly(file.read_bytes())
            return columns if columns is None or isinstance(columns, MappedColumns) else _stored(columns, entry)
    except (OSError, Timeout) as error:
        LOG.debug("the annotation cache %s cannot be used: %s", folder, error)
        return read_strictly(file.read_bytes())


def annotation_cache() -> Path | None:
    """The folder of the cache; None if it is switched off."""
    own = os.environ.get(VARIABLE, "")
    if own.strip().lower() in OFF:
        return None
    return Path(own) if own else cache_folder() / "annotations"


def map_columns(entry: Path) -> Columns:
    """Map an entry without reading its arrays; raises `DataError` if it is missing or incomplete."""
    try:
        header, start, size = _header(entry)
        if size != start + header["size"]:
            raise ValueError("it is incomplete")
        with entry.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        arrays = {name: _array(mapped, start, *header["arrays"][name]) for name in ARRAYS}
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise DataError(
            f"{entry} in the annotation cache cannot be read ({error}): start again, or set {VARIABLE}=off"
        ) from error
    return MappedColumns(**arrays, entry=entry)


@dataclass(frozen=True, eq=False)
class MappedColumns(Columns):
    """Columns of an entry; another process maps the same file instead of receiving a copy."""

    entry: Path

    def __reduce__(self) -> Any:
        return map_columns, (self.entry,)


def _header(entry: Path) -> tuple[dict[str, Any], int, int]:
    """The header of an entry, the offset of its arrays, and the size of the file."""
    with entry.open("rb") as stream:
        magic, length = HEADER.unpack(stream.read(HEADER.size))
        if magic != MAGIC:
            raise ValueError("it is not an entry")
        return json.loads(stream.read(length)), _aligned(HEADER.size + length), os.fstat(stream.fileno()).st_size


def _array(mapped: mmap.mmap, start: int, dtype: str, shape: list[int], offset: int) -> np.ndarray:
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.frombuffer(mapped, np.dtype(dtype), int(np.prod(shape)), start + offset).reshape(shape)


def _valid(entry: Path) -> Columns | None:
    """The columns of an entry if its content has the hash in its header."""
    if not entry.is_file():
        return None
    try:
        header, start, _ = _header(entry)
        columns = map_columns(entry)
        if _digest(entry, start) != header["digest"]:
            raise ValueError("it is damaged")
    except (DataError, OSError, ValueError, KeyError, TypeError, struct.error) as error:
        LOG.debug("%s in the annotation cache is read again: %s", entry, error)
        return None
    with suppress(OSError):  # a read-only cache
        os.utime(entry)  # entries that were not used for the longest time are removed first
    return columns


def _digest(file: Path, start: int = 0) -> str:
    hashed = hashlib.blake2b(digest_size=16)
    with file.open("rb") as stream:
        stream.seek(start)
        while block := stream.read(BLOCK):
            hashed.update(block)
    return hashed.hexdigest()


def _stored(columns: Columns, entry: Path) -> Columns:
    """Write the columns and map them; if they cannot be written, they stay in the memory of this process."""
    try:
        _write(columns, entry)
        return map_columns(entry)
    except (OutputError, OSError, DataError) as error:
        LOG.debug("the annotation cache %s cannot be written: %s", entry.parent, error)
        return columns


def _write(columns: Columns, entry: Path) -> None:
    parts: list[memoryview] = []
    listed: dict[str, tuple[str, tuple[int, ...], int]] = {}
    size = 0
    for name in ARRAYS:
        array = np.ascontiguousarray(getattr(columns, name))
        listed[name] = (array.dtype.str, array.shape, size)
        parts += [array.reshape(-1).view(np.uint8).data, memoryview(bytes(-array.nbytes % ALIGNED))]
        size = _aligned(size + array.nbytes)
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        hashed.update(part)
    header = json.dumps({"arrays": listed, "size": size, "digest": hashed.hexdigest()}).encode()
    _clean(entry.parent, size)
    with whole_file(entry) as writer:
        writer.write(HEADER.pack(MAGIC, len(header)) + header)
        writer.write(bytes(_aligned(HEADER.size + len(header)) - HEADER.size - len(header)))
        for part in parts:
            writer.write(part)


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _clean(folder: Path, needed: int) -> None:
    """Remove files that interrupted processes left, and the oldest entries until `needed` bytes fit into `LIMIT`."""
    entries: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(OSError):
            status = path.stat()
            if path.suffix == ENDING:
                entries.append((status.st_mtime, status.st_size, path))
            elif path.suffix in (".tmp", ".lock") and status.st_mtime < time.time() - ABANDONED:
                path.unlink()
    total = needed + sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= LIMIT:
            break
        with suppress(OSError):  # a process of another system may have it open
            path.unlink()
        total -= size
