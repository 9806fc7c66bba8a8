"""The native format: a folder with `config.json` and `model.safetensors`, which contains no executable code."""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from htc.checkpoint.folder import CONFIG_FILE, WEIGHTS_FILE, model_folder, parse_config, read_config
from htc.config import Config
from htc.errors import CheckpointError, OutputError

_METADATA_KEY = "htc_config"


def save_pretrained(model: nn.Module | Mapping[str, Tensor], config: Config, folder: Path | str) -> Path:
    """Write `config.json` and `model.safetensors` into `folder`, which is created if needed; existing files are
    replaced.

    The files are written under temporary names and then renamed, so that a full disk or an interruption never leaves
    an incomplete model. Raises an `OutputError` with the folder and the reason.
    """
    folder = Path(folder)
    state = model.state_dict() if isinstance(model, nn.Module) else model
    text = config.model_dump_json(indent=2)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{folder}: is a file, or lies under one; choose another folder for the model") from error
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created: {error.strerror}. Choose another folder") from error
    # The weights file also contains the configuration, so `model.safetensors` alone is enough.
    metadata = {"format": "pt", _METADATA_KEY: config.model_dump_json()}
    writers: dict[str, Callable[[Path], object]] = {
        WEIGHTS_FILE: lambda path: save_file(_separate(state), path, metadata=metadata),
        CONFIG_FILE: lambda path: path.write_text(text + "\n", encoding="utf-8"),
    }
    _write_all(folder, writers)
    return folder


def _write_all(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write every file under a temporary name and flush it to the disk; rename them only when all are complete.

    Permissions follow the umask, since safetensors would create files that only their owner can read.
    """
    temporaries = {name: folder / f".{name}.{os.getpid()}.tmp" for name in writers}
    try:
        for name, write in writers.items():
            temporaries[name].touch()
            mode = temporaries[name].stat().st_mode
            write(temporaries[name])
            if temporaries[name].stat().st_mode != mode:
                temporaries[name].chmod(mode)
            with temporaries[name].open("rb+") as file:
                os.fsync(file.fileno())
        for name, temporary in temporaries.items():
            temporary.replace(folder / name)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            for temporary in temporaries.values():
                temporary.unlink(missing_ok=True)
            folder.rmdir()  # succeeds only if it is empty, so that no new empty folder is left behind
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise OutputError(
            f"{folder}: the model cannot be written: {reason}; free disk space or choose another folder"
        ) from error


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU copies without shared memory, which safetensors refuses."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        plain = tensor.detach().to("cpu").contiguous()
        address = plain.untyped_storage().data_ptr()
        result[name] = plain.clone() if address in seen or plain.untyped_storage().nbytes() > plain.nbytes else plain
        seen.add(address)
    return result


def from_pretrained(folder: Path | str) -> tuple[Config, dict[str, Tensor]]:
    """Read the configuration and weights of a native folder, or of the `model/` in a run folder.

    Raises a `CheckpointError` with the file and the fault: missing, damaged, unknown configuration keys.
    """
    folder = model_folder(Path(folder))
    config = read_config(folder / CONFIG_FILE)
    return config, read_safetensors(folder / WEIGHTS_FILE)


def is_safetensors(path: Path) -> bool:
    """Return whether a file is of the safetensors format, by its extension or its first bytes: the length of a JSON
    header, then the header.
    """
    if path.suffix == ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            length, start = int.from_bytes(file.read(8), "little"), file.read(1)
        return start == b"{" and 2 <= length <= path.stat().st_size - 8
    except OSError:
        return False


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a `.safetensors` file; floating-point ones become float32."""
    with _opened(path) as file:
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path}: contains values that torch cannot read ({error}); save it as float32"
            ) from error
    return {
        name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def embedded_config(path: Path) -> Config | None:
    """Read the configuration in the metadata of a native `.safetensors` file; None for other files."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(_METADATA_KEY)
    return None if text is None else parse_config(text, f"{path} (metadata)")


def _opened(path: Path) -> Any:
    """Open the file (`safe_open` has no type)."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: empty file; download or copy it again")
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: damaged, truncated or not a safetensors file ({error}); download or copy it again"
        ) from error
