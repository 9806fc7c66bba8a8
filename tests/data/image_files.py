"""Image files that Pillow does not write: TIFFs with any tags, PNGs of 16 bits with alpha."""

import struct
import zlib
from pathlib import Path

import numpy as np

TIFF_TYPES = {"H": 3, "I": 4}


def write_tiff(path: Path, *pages: tuple[np.ndarray, dict[int, int]]) -> None:
    """A TIFF of uncompressed pages (H, W) or (H, W, C), unsigned or float, each with further tags of one number."""
    body = bytearray(b"II*\0\0\0\0\0")
    link = 4
    for values, further in pages:
        values = values if values.ndim == 3 else values[:, :, None]
        height, width, channels = values.shape
        start, bits = len(body), values.dtype.itemsize * 8
        body += values.astype(values.dtype.newbyteorder("<")).tobytes()
        body += b"\0" * (len(body) % 2)
        depths = len(body)
        body += struct.pack(f"<{channels}H", *[bits] * channels) + b"\0\0" * 4
        tags = {256: width, 257: height, 259: 1, 262: 2 if channels > 2 else 1, 273: start, 277: channels, 278: height}
        tags |= {258: bits if channels < 3 else depths, 279: values.nbytes, 339: 3 if values.dtype.kind == "f" else 1}
        tags |= further
        ifd = len(body)
        body[link : link + 4] = struct.pack("<I", ifd)
        body += struct.pack("<H", len(tags))
        for tag, value in sorted(tags.items()):
            count = channels if tag == 258 and channels > 2 else 1
            short = tag in (258, 259, 262, 274, 277, 339)
            entry = struct.pack("<I", value) if count > 1 or not short else struct.pack("<HH", value, 0)
            body += struct.pack("<HHI", tag, 3 if short else 4, count) + entry
        link = len(body)
        body += b"\0\0\0\0"
    path.write_bytes(bytes(body))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk with its checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_gray_alpha_png(path: Path, values: np.ndarray) -> None:
    """A PNG of gray and alpha (H, W, 2), 16 bits each."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    chunks = (png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as a camera stores them, of which an EXIF orientation makes the upright image."""
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(turned[orientation])
