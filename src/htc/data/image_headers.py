"""Size, orientation and pages of image files, from their headers."""

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

from htc.data.image_pages import BROKEN, file_and_page, frames_of, turn_to
from htc.data.images import ImageSource, is_url, open_file, open_image
from htc.data.pixel_values import ORIENTATION
from htc.errors import DataError

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".avif", ".avifs"),
    *(".heic", ".heif", ".hif"),
)
"""Suffixes of images in folders; a file that is named explicitly may have any suffix."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""
Pages = Literal["first", "all"] | int | None
"""Pages of a file with several: the first, all, or that of a number, from 1; None: the first, with a warning."""
TIFF_WIDTH, TIFF_HEIGHT = 256, 257


class ImageHeader(NamedTuple):
    """The header of an image file, or of one of its pages."""

    height: int
    width: int
    """As stored, before the orientation is applied."""
    orientation: int
    """EXIF orientation; 1: upright, also if there is none."""
    pages: int
    """Pages or frames of the whole file."""
    floating: bool
    """Whether its values are floats."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image that `read_image` returns."""
        return (self.width, self.height) if self.orientation in TURNED else (self.height, self.width)


def image_header(path: Path) -> ImageHeader:
    """Read the header of an image file; raises `DataError`."""
    path, page = file_and_page(path)
    with open_file(path) as stream:
        image = open_image(stream, str(path))
        pages = turn_to(image, str(path), page or 1)
        width, height = image.size
        try:
            orientation = image.getexif().get(ORIENTATION, 1)
            if image.format == "TIFF":  # Pillow's size has the orientation applied, unlike that of other formats
                width, height = (int(image.tag_v2[tag]) for tag in (TIFF_WIDTH, TIFF_HEIGHT))  # type: ignore[attr-defined]
        except BROKEN:
            orientation = 1
        return ImageHeader(height, width, orientation, pages, image.mode == "F")


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the image that `read_image` returns, read from the header only; raises `DataError` like it."""
    return image_header(path).size


def page_count(source: ImageSource) -> int:
    """The number of pages or frames of a file; 1 for a file that cannot be read, a page (`stack.tif#2`), a URL, and
    for images in memory.
    """
    try:
        if callable(getattr(source, "read", None)) and callable(getattr(source, "seek", None)):
            return len(frames_of(open_image(cast(BinaryIO, source), "the open file")))
        if not isinstance(source, str | PathLike) or is_url(source) or file_and_page(Path(source))[1]:
            return 1
        return image_header(Path(source)).pages
    except DataError:
        return 1


def is_image(path: Path) -> bool:
    """Whether a file begins like an image of one of `FORMATS`."""
    try:
        with open_file(path) as stream:
            open_image(stream, str(path))
    except DataError:
        return False
    return True


def each_page(sources: Iterable[ImageSource], pages: Pages) -> Iterator[tuple[int, ImageSource, int | None]]:
    """Yield the index of each source, the source or, of a file with several pages, one page of it (`stack.tif#2`), and
    the page to read of a source that is no path.
    """
    for index, source in enumerate(sources):
        numbers = (1 if pages == "first" else pages,) if pages != "all" else range(1, page_count(source) + 1)
        for page in numbers:
            paged = len(numbers) > 1 or (page or 1) > 1
            is_path = isinstance(source, str | PathLike) and not is_url(source)
            yield index, f"{source}#{page}" if paged and is_path else source, page
