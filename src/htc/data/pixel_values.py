"""Arrays, tensors, and values of more than 8 bits as RGB bytes.

Which values become 0 and 255 is defined by `input.intensity` of the configuration (`htc.config.Intensity`), so that
training and prediction agree. 8-bit values are never changed.
"""

import io
from typing import TYPE_CHECKING, Any, BinaryIO

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from htc.config import BitDepth, FixedRange, Intensity, Percentiles, TypeRange
from htc.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

ACCEPTED = (
    "pass a path, an http(s) URL, an open binary file, a PIL image, a (height, width, 3) uint8 array (channels='bgr' "
    "for OpenCV), or a (3, height, width) tensor, uint8 or float from 0 to 1"
)
ORIENTATION = 0x0112
"""The EXIF and TIFF tag."""
BIT_DEPTHS = (8, 10, 12, 14, 16)
DEEPEST = 65535
"""Largest value whose range is known without `input.intensity`."""
RANGE_REMEDY = (
    "convert it to 8 or 16 bits, or give the range of its values: --percentile 0.1,99.9 (input.intensity of the "
    "configuration, in training and prediction)"
)


def pixels_of_array(array: Shaped[np.ndarray, "..."], intensity: Intensity) -> UInt8[np.ndarray, "H W 3"]:
    """Convert an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) of 8 or 16 bits; of floats if `intensity` defines
    their range. The fourth channel is dropped.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    floats = array.dtype.kind == "f" and intensity.takes_floats
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not (floats or array.dtype in (np.uint8, np.uint16)):
        raise DataError(
            f"an array of shape {array.shape} and type {array.dtype} is not an image; pass (height, width, 3) RGB uint8"
        )
    if not array.size:
        raise DataError(f"an array of shape {array.shape} has no pixels; pass an image of at least 1x1")
    channels = array[:, :, :3] if array.shape[2] > 1 else np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(channels if array.dtype == np.uint8 else to_bytes(channels, intensity, "the array"))


def pixels_of_tensor(tensor: "Tensor") -> UInt8[np.ndarray, "H W 3"]:
    """Convert a tensor (3, H, W), uint8 or float from 0 to 1."""
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


def to_bytes(
    values: Shaped[np.ndarray, "..."], intensity: Intensity, name: str, bits: int = 16
) -> UInt8[np.ndarray, "..."]:
    """Map the values of the image `name` to 0..255; those outside of the range of `intensity` are clipped.

    `bits`: the depth that the file declares, whose range is that of the type. Raises `DataError` for floats, and for
    integers outside of 16 bits, whose range `intensity` does not define.
    """
    low, high = _range(values, intensity, name, bits)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    exact = np.float32 if values.dtype.itemsize <= 2 or values.dtype == np.float32 else np.float64
    scaled = (values.astype(exact) - exact(low)) * exact(255 / (high - low)) + exact(0.5)
    return np.nan_to_num(scaled, nan=0.0).clip(0, 255).astype(np.uint8)


def _range(values: Shaped[np.ndarray, "..."], intensity: Intensity, name: str, bits: int) -> tuple[float, float]:
    """The values that become 0 and 255."""
    match intensity:
        case FixedRange():
            return intensity.low, intensity.high
        case Percentiles():
            finite: Any = values if values.dtype.kind in "iu" else values[np.isfinite(values)]
            if not finite.size:
                return 0.0, 0.0
            low, high = np.percentile(finite, (intensity.low, intensity.high))
            return float(low), float(high)
        case TypeRange() | BitDepth():
            if values.dtype.kind == "f":
                raise DataError(f"{name} has floating-point values of unknown range; {RANGE_REMEDY}")
            least, most = int(values.min()), int(values.max())
            if least < 0 or most > DEEPEST:
                raise DataError(f"{name} has 32-bit values ({least} to {most}); {RANGE_REMEDY}")
            if isinstance(intensity, BitDepth):
                bits = next(depth for depth in BIT_DEPTHS if most < 2**depth)
            return 0.0, float(2 ** (bits if most < 2**bits else 16) - 1)


def deep_color(
    image: Image.Image, stream: BinaryIO | io.BufferedIOBase, name: str, intensity: Intensity
) -> Image.Image:
    """Decode the color image of 16 bits per channel that `stream` holds, at the frame that `image` is turned to."""
    stream.seek(0)
    content, frame = np.frombuffer(stream.read(), np.uint8), image.tell()
    try:
        decoded = cv2.imdecodemulti(content, cv2.IMREAD_UNCHANGED, range=(frame, frame + 1))[1] if frame else ()
        values = decoded[0] if decoded else cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if not frame else None
    except cv2.error:
        values = None
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise DataError(
            f"{name} is damaged, incomplete, or of an unsupported 16-bit kind; save it again as a 16-bit PNG"
        )
    converted = Image.fromarray(to_bytes(values[:, :, 2::-1], intensity, name))
    if image.format != "TIFF":  # whose orientation OpenCV applies, with all flags
        converted.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return converted
