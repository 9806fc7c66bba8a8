"""Read files of `torch.save`: today's zip archives and the older format of 2019 (a sequence of pickles, then raw
storages).

Only the requested tensors are read. Every size is checked against the size of the file, so that a small file cannot
cause a large allocation.
"""

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from htc.checkpoint.safe_pickle.unpickle import Bounded, PickleMachine
from htc.checkpoint.safe_pickle.values import DamagedPickleError, StorageReference, TensorReference, UnsafePickleError
from htc.errors import CheckpointError

# Exceptions that the standard library raises for damaged archives, in addition to its own error.
_ZIP_FAULTS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    EOFError,
    KeyError,
    struct.error,
)
_MOST_REPEATED = 8
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_MAGIC_BYTES = b"\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")
"""The magic number in pickles of protocol 2 and later, after a header of at most 11 bytes."""
_REMEDY = "download or copy it again"
_OTHER_FILES = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself: run `git lfs pull`"),
    (b"<", "an HTML or XML page, not weights: the download failed, use the URL of the file itself"),
    (b"{", "JSON text, not weights: pass the .pth or .safetensors file, or the folder"),
    (b"\x89PNG", "an image, not weights"),
    (b"\xff\xd8\xff", "an image, not weights"),
    (b"\x89HDF", "an HDF5 file, as Keras writes, not weights of a PyTorch model"),
    (b"GGUF", "a GGUF file, not weights of a detector"),
    (b"\x08", "not a checkpoint; if it is an ONNX model, pass the checkpoint it was exported from"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
)


@dataclass(frozen=True)
class TorchFile:
    """The content of a file, with a `TensorReference` in place of every tensor, and the positions of the storages."""

    path: Path
    content: Any
    positions: Mapping[str, tuple[int, int]]
    """Storage key -> (byte offset, number of bytes) in the file."""

    def tensors(self, references: Mapping[str, TensorReference]) -> dict[str, Tensor]:
        """Read the named tensors to the CPU; tensors that share a storage in the file also share it here."""
        storages: dict[str, Tensor] = {}
        result: dict[str, Tensor] = {}
        with self.path.open("rb") as file:
            for name, reference in references.items():
                key = reference.storage.key
                if key not in storages:
                    storages[key] = self._storage(file, reference.storage)
                result[name] = storages[key].as_strided(reference.shape, reference.stride, reference.offset)
        # Each may be copied later (half precision, row order): many views of one storage must not fill the memory.
        size = sum(tensor.nbytes for tensor in result.values())
        if size > _MOST_REPEATED * self.path.stat().st_size:
            raise CheckpointError(
                f"{self.path}: refused: its tensors repeat the same stored values, {size >> 20} MiB in all"
            )
        return result

    def _storage(self, file: IO[bytes], storage: StorageReference) -> Tensor:
        dtype: torch.dtype = getattr(torch, storage.dtype)
        if storage.key not in self.positions:
            raise CheckpointError(
                f"{self.path}: damaged: the values of storage {storage.key} are not in the file; {_REMEDY}"
            )
        offset, length = self.positions[storage.key]
        if length != storage.numel * dtype.itemsize:
            raise CheckpointError(
                f"{self.path}: damaged: storage {storage.key} should have {storage.numel} values but has {length} "
                f"bytes; {_REMEDY}"
            )
        if not length:
            return torch.empty(0, dtype=dtype)
        file.seek(offset)
        values = bytearray(length)
        if file.readinto(values) != length:  # type: ignore[attr-defined]
            raise CheckpointError(f"{self.path}: truncated; {_REMEDY}")
        return torch.frombuffer(values, dtype=dtype)


def is_plain_pickle(path: Path) -> bool:
    """Return whether the file is a pickle (protocol 2 or later) that torch.save did not write, by its first bytes."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(32)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    return head.startswith(b"\x80") and _LEGACY_MAGIC_BYTES not in head


def open_torch_file(path: Path) -> TorchFile:
    """Read the structure of a file of `torch.save` without executing anything in it.

    Raises a `CheckpointError` with the file, the fault and the remedy: missing, empty, truncated, another kind of file,
    or a pickle that uses a global which no checkpoint needs (the message names it).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is a folder, not a weights file' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as file:
            head = file.read(512)
            return _open_zip(path) if head.startswith(b"PK\x03\x04") else _open_legacy(path, file, head)
    except UnsafePickleError as error:
        raise CheckpointError(
            f"{path}: refused: {error}. Nothing in it was executed. Use weights from a source you trust"
        ) from error
    except DamagedPickleError as error:
        raise CheckpointError(f"{path}: damaged or truncated: {error}; {_REMEDY}") from error
    except _ZIP_FAULTS as error:
        raise CheckpointError(f"{path}: damaged or truncated ({error}); {_REMEDY}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def _open_zip(path: Path) -> TorchFile:
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        roots = [
            name.removesuffix("data.pkl")
            for name in archive.namelist()
            if name == "data.pkl" or name.endswith("/data.pkl")
        ]
        if len(roots) != 1:
            raise CheckpointError(
                f"{path}: a zip archive, but not one of torch.save (no data.pkl in it); unpack it if it contains the "
                f"weights"
            )
        root = roots[0]
        members = {member.filename: member for member in archive.infolist()}
        for member in members.values():
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 0x1:
                raise CheckpointError(
                    f"{path}: refused: {member.filename} in it is compressed or encrypted, which torch.save never does"
                )
        if f"{root}byteorder" in members and archive.read(f"{root}byteorder").strip() != b"little":
            raise CheckpointError(f"{path}: written on a big-endian machine; save it again on a little-endian one")
        content = PickleMachine().run(archive.read(f"{root}data.pkl"))
        prefix = f"{root}data/"
        positions = {
            name.removeprefix(prefix): _extent(path, file, member)
            for name, member in members.items()
            if name.startswith(prefix)
        }
    # Overlapping members would let a small file fill the memory.
    if sum(length for _, length in positions.values()) > path.stat().st_size:
        raise CheckpointError(f"{path}: refused: the parts of the archive overlap")
    return TorchFile(path, content, positions)


def _extent(path: Path, file: IO[bytes], member: zipfile.ZipInfo) -> tuple[int, int]:
    """Return offset and length of a stored member's bytes, which follow its local header (30 bytes, then a name and an
    extra field of variable length).
    """
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) != 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no header for {member.filename}")
    start = (
        member.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    )
    if start + member.file_size > path.stat().st_size:
        raise zipfile.BadZipFile(f"{member.filename} extends beyond the end of the file")
    return start, member.file_size


def _open_legacy(path: Path, file: IO[bytes], head: bytes) -> TorchFile:
    if not head:
        raise CheckpointError(f"{path}: empty file; {_REMEDY}")
    for start, what in _OTHER_FILES:
        if head.lstrip().startswith(start):
            raise CheckpointError(f"{path}: {what}")
    if head[257:262] == b"ustar":
        raise CheckpointError(
            f"{path}: a tar archive (or torch before 0.1.10); unpack it, or save it again with a newer torch"
        )
    file.seek(0)
    source = Bounded(file, path.stat().st_size)
    try:
        magic = PickleMachine().run(source)
    except DamagedPickleError as error:
        if head[:1] == b"\x80":
            raise
        raise CheckpointError(
            f"{path}: not a checkpoint of torch.save or safetensors; pass a .pth or .safetensors file"
        ) from error
    if magic != _LEGACY_MAGIC:
        raise CheckpointError(
            f"{path}: a pickle, but neither of torch.save nor of arrays in protocol 2 or later; save it again"
        )
    PickleMachine().run(source)  # protocol version
    system = PickleMachine().run(source)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise CheckpointError(f"{path}: written on a big-endian machine; save it again on a little-endian one")
    machine = PickleMachine()
    content = machine.run(source)
    keys = PickleMachine().run(source)
    if not isinstance(keys, list):
        raise DamagedPickleError("no list of storages")
    return TorchFile(path, content, _legacy_positions(path, file, keys, machine.storages))


def _legacy_positions(
    path: Path, file: IO[bytes], keys: list[Any], storages: Mapping[str, StorageReference]
) -> dict[str, tuple[int, int]]:
    """Return the positions of the storages. Each is stored as its length (int64, in elements) and its values; the
    element size is known from the tensors that use it.
    """
    sizes: dict[Any, int] = {key: getattr(torch, storage.dtype).itemsize for key, storage in storages.items()}
    positions: dict[str, tuple[int, int]] = {}
    end, at = path.stat().st_size, file.tell()
    for key in keys:
        if not isinstance(key, str) or key not in sizes:
            raise DamagedPickleError("it contains values that no tensor uses")
        file.seek(at)
        length = int.from_bytes(file.read(8), "little", signed=True) * sizes[key]
        if length < 0 or at + 8 + length > end:
            raise DamagedPickleError(f"storage {key} extends beyond the end of the file")
        positions[key] = (at + 8, length)
        at += 8 + length
    return positions
