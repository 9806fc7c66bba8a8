"""Files with several images: the pages of a TIFF stack, the frames of a GIF. `stack.tif#2` names the second page."""

import logging
import re
import struct
import zlib
from contextlib import suppress
from pathlib import Path

from PIL import Image

from htc.errors import DataError

BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, AttributeError, ArithmeticError),
    *(struct.error, zlib.error, RuntimeError, Image.DecompressionBombError),
)
"""Exceptions of Pillow's decoders for damaged files."""
TIFF_KIND = 254
TIFF_NO_PAGE = 0b101
"""Bits of a TIFF's NewSubfileType for reduced copies of another page and for transparency masks."""
LOG = logging.getLogger("htc")


def file_and_page(path: Path, page: int | None = None) -> tuple[Path, int | None]:
    """The file and page that a path names: page 2 of `stack.tif` for `stack.tif#2`; `page` for other paths, and
    if there is a file of this very name.
    """
    parts = page_parts(path.name)
    return (path, page) if parts is None or path.exists() else (path.with_name(parts[0]), parts[1])


def page_parts(name: str) -> tuple[str, int] | None:
    """File name and page of `stack.tif#2`; None for a name without a page."""
    file, mark, number = name.rpartition("#")
    return (file, int(number)) if mark and file and re.fullmatch("[1-9][0-9]*", number) else None


def page_path(path: Path, page: int) -> Path:
    """The path that names a page of a file."""
    return path.with_name(f"{path.name}#{page}")


def turn_to(image: Image.Image, name: str, page: int | None) -> int:
    """Turn to page `page`, from 1; returns the number of pages. None: the first, with a warning in the log if there are
    several. Raises `DataError` if there is no such page.
    """
    frames = frames_of(image)
    if page is None and len(frames) > 1:
        LOG.warning(
            "%s has %d pages or frames, and only the first is used; for the others: --pages all (Python: pages=)",
            name,
            len(frames),
        )
    if (page or 1) > len(frames):
        raise DataError(f"{name} has no page {page}: it has {len(frames)}, counted from 1")
    frame = frames[(page or 1) - 1]
    if frame:
        try:
            image.seek(frame)
        except BROKEN as error:
            raise DataError(f"{name}: page {page} is damaged ({error}); copy or download it again") from error
    return len(frames)


def frames_of(image: Image.Image) -> list[int]:
    """Frames of the file that are pages; of a TIFF, not the reduced copies and masks that belong to another page."""
    try:
        frames = list(range(getattr(image, "n_frames", 1)))
        if len(frames) == 1 or image.format != "TIFF":
            return frames
        kinds = []
        for frame in frames:
            image.seek(frame)
            kinds.append(int(image.tag_v2.get(TIFF_KIND, 0)))  # type: ignore[attr-defined]
        image.seek(0)
    except BROKEN:  # the first page is read, whose decoding reports any damage
        with suppress(*BROKEN):
            image.seek(0)
        return [0]
    return [frame for frame, kind in zip(frames, kinds, strict=True) if not kind & TIFF_NO_PAGE] or [0]
