"""Check that the files and folders of a call exist, before torch is imported."""

from collections.abc import Mapping
from pathlib import Path

from htc.errors import DataError


def check_files(files: Mapping[str, Path | None]) -> None:
    """Raise `DataError` for the first of these {flag: file} that is missing or a folder; None is skipped."""
    for flag, path in files.items():
        if path is not None and (path.is_dir() or not path.exists()):  # a pipe is not a regular file, but can be read
            fault = "is a folder, not a file" if path.is_dir() else "no such file"
            raise DataError(f"{flag} {path}: {fault}; check the path")


def check_folders(folders: Mapping[str, Path | None]) -> None:
    """Raise `DataError` for the first of these {flag: folder} that is missing or a file; None is skipped."""
    for flag, path in folders.items():
        if path is not None and not path.is_dir():
            fault = "is a file, not a folder" if path.exists() else "no such folder"
            raise DataError(f"{flag} {path}: {fault}; check the path")


def check_dataset(annotations: Path, images: Path | None) -> None:
    """Raise `DataError` if the annotations of a dataset (or its folder) or its images are missing or empty."""
    if images is not None:
        check_files({"DATA": annotations})
        check_folders({"IMAGES": images})
    elif not annotations.exists():
        raise DataError(
            f"{annotations}: no such file or folder; give the COCO instance file, or the folder of the dataset"
        )
    elif annotations.is_dir() and not any(annotations.iterdir()):
        raise DataError(f"{annotations}: the folder is empty; give the folder of a dataset")
