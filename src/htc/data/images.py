"""Images of all formats as RGB bytes: the only reader, for training and prediction.

Gray becomes three equal channels, palettes are converted, transparency is dropped (the colors below it are kept, as in
OpenCV and so in mmdetection), the first of several frames is used, and the EXIF orientation is applied. For 16-bit
images, the smallest camera depth (8, 10, 12, 14, 16 bits) that contains their brightest value is mapped to 0..255: a
12-bit micrograph in a 16-bit file would otherwise be black, while one that uses all 16 bits is divided by 257.
"""

import io
import re
import struct
import zlib
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps

from htc.errors import DataError

MAX_PIXELS = 178_956_970
"""Pillow's limit against images that are made to exhaust the memory."""
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Pixel formats of Pillow and its plugins, without those that run another program (EPS) or render vector graphics."""
BIT_DEPTHS = (8, 10, 12, 14, 16)
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""Exceptions of Pillow's decoders for damaged files."""
ORIENTATION = 0x0112
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""

if TYPE_CHECKING:
    from torch import Tensor

    ImageSource = str | PathLike[str] | BinaryIO | Image.Image | np.ndarray | Tensor
else:
    ImageSource = object  # torch is imported only for a tensor
ACCEPTED = (
    "pass a path, an open binary file, a PIL image, a (height, width, 3) uint8 array (channels='bgr' for OpenCV), or "
    "a (3, height, width) tensor, uint8 or float from 0 to 1"
)
Channels = Literal["rgb", "bgr"]


def read_image(
    source: ImageSource, max_pixels: int = MAX_PIXELS, channels: Channels = "rgb"
) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image of any kind as RGB, 0..255.

    `source` is a path, an open binary file, a PIL image, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of 8 or 16
    bits, or a tensor (3, H, W), uint8 or float 0..1. `channels` is the color order of an array or a tensor; files and
    PIL images define theirs. Raises `DataError` with the image and the remedy. Pillow's settings are not changed, so
    the function is thread-safe.
    """
    if isinstance(source, np.ndarray):
        return _in_rgb(_from_array(source), channels)
    if isinstance(source, Image.Image):
        return _from_image(source, "the PIL image")
    if type(source).__module__.split(".")[0] == "torch":
        return _in_rgb(_from_tensor(cast("Tensor", source)), channels)
    if callable(getattr(source, "read", None)) and callable(getattr(source, "seek", None)):
        return _from_stream(source, "the open file", max_pixels)  # type: ignore[arg-type]
    if not isinstance(source, str | PathLike):
        hint = ", or predict_many for several images" if isinstance(source, list | tuple | set) else ""
        raise DataError(f"an image cannot be a {type(source).__name__}: {ACCEPTED}{hint}")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(source)):
        raise DataError(f"{source}: URLs are not supported here; download the image and pass its path")
    path = Path(source)
    with _stream(path) as stream:
        return _from_stream(stream, str(path), max_pixels)


def _from_stream(stream: BinaryIO | io.BufferedIOBase, name: str, max_pixels: int) -> UInt8[np.ndarray, "H W 3"]:
    image = _open(stream, name)
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise DataError(
            f"{name} has {pixels} pixels ({image.width}x{image.height}), more than {max_pixels}; increase max_pixels"
        )
    return _from_image(_deep_color(image, stream, name) or image, name)


def _in_rgb(pixels: UInt8[np.ndarray, "H W 3"], channels: Channels) -> UInt8[np.ndarray, "H W 3"]:
    return pixels if channels == "rgb" else np.ascontiguousarray(pixels[:, :, ::-1])


def _from_tensor(tensor: "Tensor") -> UInt8[np.ndarray, "H W 3"]:
    values = tensor.detach().cpu()
    if values.ndim != 3 or values.shape[0] != 3 or not values.numel():
        raise DataError(f"a tensor of shape {tuple(values.shape)} is not an image: {ACCEPTED}")
    if values.is_floating_point():
        values = values.float()
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise DataError(
                f"a float tensor with values from {float(values.min()):.3g} to {float(values.max()):.3g} is not an "
                f"image: values must be in 0..1, neither normalized nor 0..255 (pass these as uint8)"
            )
        values = (values * 255).round()
    elif str(values.dtype) != "torch.uint8":
        raise DataError(f"a tensor of type {values.dtype} is not an image: {ACCEPTED}")
    return np.ascontiguousarray(values.byte().permute(1, 2, 0).numpy())


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the image that `read_image` returns, read from the header only; raises `DataError` like it."""
    height, width, orientation = image_header(path)
    return (width, height) if orientation in TURNED else (height, width)


def image_header(path: Path) -> tuple[int, int, int]:
    """(height, width) as stored, and the EXIF orientation (1: upright, also if there is none); raises `DataError`."""
    with _stream(path) as stream:
        image = _open(stream, str(path))
        try:
            orientation = image.getexif().get(ORIENTATION, 1)
        except BROKEN:
            orientation = 1
        return image.height, image.width, orientation


def _stream(path: Path) -> BinaryIO:
    if path.is_dir():
        raise DataError(f"{path} is a folder, not an image; pass the files in it")
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if not stream.seek(0, io.SEEK_END):
        stream.close()
        raise DataError(f"{path} is empty; copy or download it again")
    stream.seek(0)
    return stream


def _open(stream: BinaryIO | io.BufferedIOBase, name: str) -> Image.Image:
    """Open the image and read its header. The decoder is selected here since `Image.open` applies a process-wide
    limit.
    """
    Image.init()
    prefix = stream.read(16)
    for kind in FORMATS:
        decoder, accept = Image.OPEN.get(kind, (None, None))
        if decoder is None:
            continue
        accepted = accept is None or accept(prefix)
        if not accepted or isinstance(accepted, str):
            continue
        stream.seek(0)
        try:
            return decoder(cast(BinaryIO, stream), name)
        except BROKEN:
            continue
    raise DataError(f"{name} is not an image, or its header is damaged; use a JPEG, PNG, WebP or TIFF file")


def _deep_color(image: Image.Image, stream: BinaryIO | io.BufferedIOBase, name: str) -> Image.Image | None:
    """Convert a color image of 16 bits per channel to 8 bits; None for others. Pillow would keep the upper byte, which
    is black for 12 bits.
    """
    deep = any("16" in str(tile[3]) for tile in getattr(image, "tile", ())) and image.mode in ("RGB", "RGBA", "LA")
    if not deep:
        return None
    stream.seek(0)
    values = cv2.imdecode(np.frombuffer(stream.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise DataError(
            f"{name} is damaged, incomplete, or of an unsupported 16-bit kind; save it again as a 16-bit PNG"
        )
    converted = Image.fromarray(_to_bytes(values[:, :, 2::-1]))
    converted.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return converted


def _from_image(image: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
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
    if image.mode == "F":
        raise DataError(f"{name} has floating-point values of unknown range; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        gray = np.asarray(image)
        if gray.min() < 0 or gray.max() > 65535:
            raise DataError(f"{name} has 32-bit values ({gray.min()} to {gray.max()}); convert it to 8 or 16 bits")
        return np.stack([_to_bytes(gray)] * 3, axis=-1)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a damaged EXIF block is ignored."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        # An upright image is not copied, while `exif_transpose` would copy it: it may be half a gigabyte.
        return image if orientation == 1 else ImageOps.exif_transpose(image)
    except BROKEN:
        return image


def _from_array(array: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "H W 3"]:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"an array of shape {array.shape} and type {array.dtype} is not an image; pass (height, width, 3) RGB uint8"
        )
    if not array.size:
        raise DataError(f"an array of shape {array.shape} has no pixels; pass an image of at least 1x1")
    channels = array[:, :, :3] if array.shape[2] > 1 else np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(channels if array.dtype == np.uint8 else _to_bytes(channels))


def _to_bytes(values: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Map 0..65535 to 0..255 by the smallest common depth that contains the brightest value."""
    brightest = int(values.max())
    top = next(2**depth - 1 for depth in BIT_DEPTHS if brightest < 2**depth)
    return (values.astype(np.float32) * (255 / top) + 0.5).astype(np.uint8)
