"""Our own format: a folder with `config.json` and `model.safetensors`. Nothing in it can run; it loads without a
network.
"""

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
    """Write `config.json` and `model.safetensors` into `folder` (made if need be; files of these names are replaced).

    The files are written beside their places and renamed together, so that a full disk or an interruption leaves the
    old model or the new one, never half of one. Raises `OutputError` naming the place and the reason.
    """
    folder = Path(folder)
    state = model.state_dict() if isinstance(model, nn.Module) else model
    text = config.model_dump_json(indent=2)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{folder}: is a file, or lies under one; choose another folder for the model") from error
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
    # The weights also carry the configuration: `model.safetensors` alone is enough.
    metadata = {"format": "pt", _METADATA_KEY: config.model_dump_json()}
    writers: dict[str, Callable[[Path], object]] = {
        WEIGHTS_FILE: lambda path: save_file(_separate(state), path, metadata=metadata),
        CONFIG_FILE: lambda path: path.write_text(text + "\n", encoding="utf-8"),
    }
    _write_all(folder, writers)
    return folder


def _write_all(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write every file beside its place, flushed to the disk; only when all are whole do they take their names.

    Permissions follow the umask, whatever a writer chooses: safetensors makes files that only their owner can read.
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
            folder.rmdir()  # only if it is empty: a new folder is not left behind
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise OutputError(
            f"{folder}: the model cannot be written: {reason}; free some space or choose another folder"
        ) from error


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPU copies in plain memory order; safetensors refuses tensors that share memory."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        plain = tensor.detach().to("cpu").contiguous()
        address = plain.untyped_storage().data_ptr()
        result[name] = plain.clone() if address in seen or plain.untyped_storage().nbytes() > plain.nbytes else plain
        seen.add(address)
    return result


def from_pretrained(folder: Path | str) -> tuple[Config, dict[str, Tensor]]:
    """The configuration and weights of a folder of ours, or of a run folder (whose `model/` is taken).

    Raises `CheckpointError` naming the file and what is wrong: missing, damaged, unknown configuration keys.
    """
    folder = model_folder(Path(folder))
    config = read_config(folder / CONFIG_FILE)
    return config, read_safetensors(folder / WEIGHTS_FILE)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a `.safetensors` file, floating ones as float32."""
    with _opened(path) as file:
        try:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (SafetensorError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path}: holds values that torch cannot read ({error}); save it as float32"
            ) from error
    return {
        name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }


def embedded_config(path: Path) -> Config | None:
    """The configuration inside a `.safetensors` file of ours; None in others."""
    with _opened(path) as file:
        text = (file.metadata() or {}).get(_METADATA_KEY)
    return None if text is None else parse_config(text, f"{path} (metadata)")


def _opened(path: Path) -> Any:
    """The open file; `safe_open` has no type."""
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
