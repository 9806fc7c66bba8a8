"""Images that are cut or have flipped bits: they are read, or refused with a message that names the file."""

import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from htc.data.image_headers import image_header
from htc.data.images import read_image
from htc.errors import DataError
from stress_tests.harness import Case, Stress
from stress_tests.samples import mutated

FORMATS = {
    "a.png": ("RGB", {}),
    "palette.png": ("P", {}),
    "gray.png": ("L", {}),
    "deep.png": ("I;16", {}),
    "alpha.png": ("RGBA", {}),
    "a.jpg": ("RGB", {}),
    "progressive.jpg": ("RGB", {"progressive": True}),
    "cmyk.jpg": ("CMYK", {}),
    "a.tif": ("RGB", {}),
    "lzw.tif": ("RGB", {"compression": "tiff_lzw"}),
    "float.tif": ("F", {}),
    "deep.tif": ("I;16", {}),
    "a.webp": ("RGB", {}),
    "lossless.webp": ("RGB", {"lossless": True}),
    "a.bmp": ("RGB", {}),
    "a.gif": ("P", {}),
    "a.ppm": ("RGB", {}),
    "a.jp2": ("RGB", {}),
    "a.avif": ("RGB", {}),
    "stack.tif": ("L", {"save_all": True}),
    "frames.gif": ("P", {"save_all": True}),
}
WIDTH, HEIGHT = 96, 64


def prepare(_shared: Path) -> Case:
    """Encode an image in every format; the case mutates one."""
    contents = {name: encoded(*FORMATS[name], name) for name in FORMATS}

    def case(_index: int, numbers: random.Random, folder: Path) -> str | None:
        name = numbers.choice(sorted(contents))
        path = folder / name
        path.write_bytes(mutated(contents[name], numbers))
        return outcome(path)

    return case


def outcome(path: Path) -> str | None:
    """Read the header and the pixels; return what is wrong with the way in which it fails or succeeds."""
    for read in (image_header, read_image):
        try:
            result = read(path)
        except DataError as error:
            if str(path) not in str(error):
                return f"{path.name}: the message does not name the file: {error}"
            continue
        if isinstance(result, np.ndarray) and (result.dtype != np.uint8 or result.ndim != 3 or result.shape[2] != 3):
            return f"{path.name}: read as {result.dtype} {result.shape}"
    return None


def encoded(mode: str, options: dict[str, object], name: str) -> bytes:
    """Return the bytes of an image of this mode, with orientation and resolution in its header where it has one."""
    generator = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(HEIGHT) * 2, np.arange(WIDTH))
    noisy = (smooth[..., None] + generator.integers(0, 40, (HEIGHT, WIDTH, 3))) % 256
    if mode == "I;16":
        image = Image.fromarray((smooth * 300).astype(np.uint16))
    elif mode == "F":
        image = Image.fromarray(smooth.astype(np.float32))
    else:
        image = Image.fromarray(noisy.astype(np.uint8)).convert(mode)
    if name.endswith((".jpg", ".tif", ".webp", "a.png")):
        exif = Image.Exif()
        exif[274] = 6
        options = {**options, "exif": exif}
    if "save_all" in options:
        options = {**options, "append_images": [image, image]}
    stream = io.BytesIO()
    suffix = Path(name).suffix
    image.save(stream, Image.registered_extensions()[suffix], **options)
    return stream.getvalue()


STRESS = Stress("images", "images cut or with flipped bits: read, or refused by name", 2_000, prepare, at_least=20)
