"""Images of all formats as RGB bytes: the only reader, for training and prediction.

Gray becomes three equal channels, palettes are converted, transparency is dropped (the colors below it are kept, as in
OpenCV and so in mmdetection), and the orientation of EXIF and TIFF tags is applied. Values of more than 8 bits are
mapped to 0..255 by `htc.data.pixel_values`.

A file with several images (the pages of a TIFF stack, the frames of a GIF) is read one page at a time: `stack.tif#2` is
the second page of `stack.tif`.
"""

import io
import re
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from htc.config import Intensity, Percentiles, TypeRange
from htc.data.image_pages import BROKEN, file_and_page, turn_to
from htc.data.pixel_values import ACCEPTED, ORIENTATION, deep_color, pixels_of_array, pixels_of_tensor, to_bytes
from htc.errors import DataError, InstallationError
from htc.extras import require

MAX_PIXELS = 178_956_970
"""Pillow's limit against images that are made to exhaust the memory."""
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Pixel formats of Pillow and its plugins, without those that run another program (EPS) or render vector graphics."""
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
"""File types of HEIF images, of which Pillow reads AVIF only."""
TIFF_BITS = 258
DEEP_COLOR = re.compile(r";16[BLN]")
"""Pillow's name for channels of 16 bits, of which it would keep the upper byte: black for a camera of 12 bits."""

if TYPE_CHECKING:
    from torch import Tensor

    ImageSource = str | PathLike[str] | BinaryIO | Image.Image | np.ndarray | Tensor
else:
    ImageSource = object  # torch is imported only for a tensor
Channels = Literal["rgb", "bgr"]
TYPE_RANGE = TypeRange()
VISIBLE = Percentiles()
"""For drawings: images of more than 8 bits are visible whatever their range."""


def read_image(
    source: ImageSource,
    max_pixels: int = MAX_PIXELS,
    channels: Channels = "rgb",
    *,
    intensity: Intensity = TYPE_RANGE,
    page: int | None = 1,
) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image of any kind as RGB, 0..255.

    `source` is a path, an http(s) URL, an open binary file, a PIL image, an array (H, W), (H, W, 1), (H, W, 3) or
    (H, W, 4) of 8 or 16 bits, or a tensor (3, H, W), uint8 or float 0..1. `channels` is the color order of an array or
    a tensor; files and PIL images define theirs. `intensity` maps values of more than 8 bits to 0..255. `page` counts
    from 1; None: the first, with a warning in the log if there are several. Raises `DataError` with the image and the
    remedy. Pillow's settings are not changed, so the function is thread-safe.
    """
    if isinstance(source, np.ndarray):
        return _in_rgb(pixels_of_array(source, intensity), channels)
    if isinstance(source, Image.Image):
        return _from_image(source, "the PIL image", intensity)
    if type(source).__module__.split(".")[0] == "torch":
        return _in_rgb(pixels_of_tensor(cast("Tensor", source)), channels)
    if callable(getattr(source, "read", None)) and callable(getattr(source, "seek", None)):
        return _from_stream(source, "the open file", max_pixels, intensity, page)  # type: ignore[arg-type]
    if not isinstance(source, str | PathLike):
        hint = ", or predict_many for several images" if isinstance(source, list | tuple | set) else ""
        raise DataError(f"an image cannot be a {type(source).__name__}: {ACCEPTED}{hint}")
    if is_url(source):
        from htc.data.remote_images import fetch_image

        return _from_stream(io.BytesIO(fetch_image(str(source))), str(source), max_pixels, intensity, page)
    path = Path(source)
    if "#" in path.name:
        path, page = file_and_page(path, page)
    with open_file(path) as stream:
        return _from_stream(stream, str(path), max_pixels, intensity, page)


def is_url(source: object) -> bool:
    """Whether a source is text that begins with a scheme, like `https://` or `s3://`."""
    return isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def _from_stream(
    stream: BinaryIO | io.BufferedIOBase, name: str, max_pixels: int, intensity: Intensity, page: int | None
) -> UInt8[np.ndarray, "H W 3"]:
    image = open_image(stream, name)
    try:
        single = page in (None, 1) and getattr(image, "n_frames", 1) == 1
    except BROKEN:
        single = False
    if not single:
        turn_to(image, name, page)
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise DataError(
            f"{name} has {pixels} pixels ({image.width}x{image.height}), more than {max_pixels}; increase max_pixels"
        )
    if DEEP_COLOR.search(str(getattr(image, "tile", ""))) and image.mode in ("RGB", "RGBA", "LA"):
        image = deep_color(image, stream, name, intensity)
    return _from_image(image, name, intensity)


def _in_rgb(pixels: UInt8[np.ndarray, "H W 3"], channels: Channels) -> UInt8[np.ndarray, "H W 3"]:
    return pixels if channels == "rgb" else np.ascontiguousarray(pixels[:, :, ::-1])


def open_file(path: Path) -> BinaryIO:
    """Open a file that is not empty; raises `DataError`."""
    if path.is_dir():
        raise DataError(f"{path} is a folder, not an image; pass the files in it")
    if not path.exists():
        what = "a link to a file that does not exist" if path.is_symlink() else "no such file"
        raise DataError(f"{path}: {what}; check the path")
    try:
        stream = path.open("rb")
        empty = not stream.seek(0, io.SEEK_END)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if empty:
        stream.close()
        raise DataError(f"{path} is empty; copy or download it again")
    stream.seek(0)
    return stream


def open_image(stream: BinaryIO | io.BufferedIOBase, name: str) -> Image.Image:
    """Open the image and read its header. The decoder is selected here since `Image.open` applies a process-wide
    limit.
    """
    Image.init()
    stream.seek(0)
    prefix, fault = stream.read(16), ""
    if prefix[4:8] == b"ftyp" and prefix[8:12] in HEIF_BRANDS:
        _register_heif(name)
    for kind in FORMATS:
        decoder, accept = Image.OPEN.get(kind, (None, None))
        try:
            accepted = decoder is not None and (accept is None or accept(prefix))
            if not accepted or isinstance(accepted, str) or decoder is None:
                continue
            stream.seek(0)
            # Without a file name: Pillow would map the file into memory, and then not turn a TIFF by its orientation.
            return decoder(cast(BinaryIO, stream), "")
        except BROKEN as error:
            fault = f" ({kind}: {error})" if str(error) else ""
    raise DataError(f"{name} is not an image, or its header is damaged{fault}; use a JPEG, PNG, WebP or TIFF file")


def _register_heif(name: str) -> None:
    """Add HEIF to Pillow's decoders, by pillow-heif; raises `DataError` if it is not installed."""
    try:
        require("heic", f"{name}: reading HEIC")
    except InstallationError as error:
        raise DataError(str(error)) from None
    import_module("pillow_heif").register_heif_opener()


def _from_image(image: Image.Image, name: str, intensity: Intensity) -> UInt8[np.ndarray, "H W 3"]:
    try:
        image.load()
    except MemoryError as error:
        raise DataError(
            f"{name}: {image.width}x{image.height} pixels exceed the memory; use a smaller image"
        ) from error
    except BROKEN as error:
        raise DataError(f"{name} is damaged or incomplete ({error}); copy or download it again") from error
    if image.width == 0 or image.height == 0:
        raise DataError(f"{name} has no pixels ({image.width}x{image.height}); use an image of at least 1x1")
    image = _upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        bits = getattr(image, "tag_v2", {}).get(TIFF_BITS, (16,))[0]
        return np.stack([to_bytes(np.asarray(image), intensity, name, min(bits, 16))] * 3, axis=-1)
    try:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise DataError(f"{name} has colors of the kind {image.mode} ({error}); save it as RGB") from error


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a damaged EXIF block is ignored."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        # An upright image is not copied, while `exif_transpose` would copy it: it may be half a gigabyte.
        return image if orientation == 1 else ImageOps.exif_transpose(image)
    except BROKEN:
        return image
