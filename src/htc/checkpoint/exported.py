"""Exported files (ONNX, OpenVINO): their kind by content, and the description that `htc export` wrote into them.

Reads the description without the runtimes, and does not import torch, so that the command line can check a call first.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from htc.checkpoint.folder import parse_config
from htc.config import Config
from htc.errors import CheckpointError

Kind = Literal["onnx", "openvino"]
DESCRIPTION = "htc"
"""Key of the description in the metadata of a file."""
FORMAT = 1
"""Number of the description's format; a file with a larger one is refused."""
METADATA_FIELD = 14
"""Field of ONNX's ModelProto that holds the metadata."""
STRINGS = tuple(bytes([8 * field + 2]) for field in range(2, 16))
"""Tags of fields with a length."""
BEGINNING = 4096
"""Bytes of an XML file in which its root element must begin."""


@dataclass(frozen=True)
class Description:
    """What an exported file records about itself."""

    config: Config
    version: str
    """Version of this library."""
    weights_sha256: str
    """Hash of the weights; see `htc.exporting.export.hash_weights`."""
    batch: int | None
    """Number of images of every call; None: any."""
    size: tuple[int, int] | None
    """(height, width) of the network input; None: any multiple of the divisor."""
    raw_images: bool
    """Whether the input is one image of any size instead of resized, normalized and padded images."""
    precision: Literal["fp32", "int8"]

    def to_json(self) -> str:
        """JSON text, for the metadata of a file."""
        values = {name: value for name, value in vars(self).items() if name != "config"}
        return json.dumps({"format": FORMAT, **values, "config": self.config.model_dump(mode="json")})


def exported_kind(path: Path) -> Kind | None:
    """Return the kind of an exported file, by its content; None for any other file."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        start = stream.read(BEGINNING)
    if start.lstrip().startswith(b"<") and b"<net" in start:
        return "openvino"
    # ModelProto begins with its version, a small integer in field 1, and a text or message follows. A torch file is a
    # zip archive or a pickle; a safetensors file begins with a number of eight bytes, the last of which are 0.
    is_onnx = start[:1] == b"\x08" and b"\x03" <= start[1:2] < b"\x40" and start[2:3] in STRINGS and any(start[3:8])
    return "onnx" if is_onnx else None


def read_description(path: Path, kind: Kind) -> Description:
    """Read the description in an exported file; raises `CheckpointError` for a file of another program."""
    try:
        text = _onnx_metadata(path).get(DESCRIPTION) if kind == "onnx" else _openvino_metadata(path)
    except (OSError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: damaged or incomplete ({error}); export or copy it again") from error
    if text is None:
        raise CheckpointError(
            f"{path}: was not written by `htc export`, so its classes and its input are unknown; export the model again"
        )
    values = json.loads(text)
    if values.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: was written by another version of this library; export the model again")
    config = parse_config(json.dumps(values.pop("config")), f"{path} (metadata)")
    size = values.pop("size")
    return Description(config, size=None if size is None else (size[0], size[1]), **values)


def _openvino_metadata(path: Path) -> str | None:
    """The description in the `rt_info` of an OpenVINO model."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    found = root.find(f"rt_info/{DESCRIPTION}")
    return None if found is None else found.get("value")


def _onnx_metadata(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file: key and value pairs in a repeated field of its outermost message."""
    with path.open("rb") as stream:
        stream.seek(0, 2)
        end = stream.tell()
        stream.seek(0)
        entries = [_text_fields(payload) for payload in _fields(stream, end, METADATA_FIELD)]
    return {entry.get(1, ""): entry.get(2, "") for entry in entries}


def _fields(stream: BinaryIO, end: int, wanted: int) -> Iterator[bytes]:
    """Yield the payloads of one length-delimited field of a protobuf message; all others are skipped unread."""
    while stream.tell() < end:
        field, kind = divmod(_varint(stream), 8)
        if kind == 0:
            _varint(stream)
        elif kind == 2:
            length = _varint(stream)
            if field == wanted:
                yield stream.read(length)
            else:
                stream.seek(length, 1)
        elif kind in (1, 5):
            stream.seek(8 if kind == 1 else 4, 1)
        else:
            raise ValueError(f"field of unknown type {kind}")
    if stream.tell() > end:
        raise ValueError("the file ends early")


def _text_fields(payload: bytes) -> dict[int, str]:
    """Fields of a message that consists of short texts."""
    from io import BytesIO

    return {number: value.decode() for number in (1, 2) for value in _fields(BytesIO(payload), len(payload), number)}


def _varint(stream: BinaryIO) -> int:
    """Read an integer of seven bits per byte, lowest first."""
    value = shift = 0
    while True:
        byte = stream.read(1)[0]
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value
        if shift > 63:
            raise ValueError("an integer is too long")


def readable_metadata(description: Description) -> dict[str, str]:
    """The description, and the facts that a program without this library needs, as separate texts."""
    config = description.config
    facts = {
        "classes": list(config.classes),
        "category_ids": list(config.category_ids),
        "input": config.input.model_dump(mode="json"),
        "mask_threshold": config.inference.mask_threshold,
        "score_threshold": config.inference.score_threshold,
        "size": description.size,
        "raw_images": description.raw_images,
        "weights_sha256": description.weights_sha256,
        "htc_version": description.version,
    }
    return {DESCRIPTION: description.to_json(), **{name: _plain(value) for name, value in facts.items()}}


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
