"""Unusable images, checkpoints and places: one message that names the thing and the remedy, exit code 2, nothing
left behind.
"""

import os
import pickle
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.conftest import Result
from htc.cli import model as model_module

Htc = Callable[..., Result]
PRESET = "htc_r50_fpn_1x_coco"
PHASES = {
    "reading the dataset",
    "loading PyTorch",
    "choosing the configuration",
    "reading the annotations",
    "checking the dataset",
    "building the model",
}


def refused(result: Result, *parts: str) -> None:
    assert result.code == 2, result.err
    assert result.out == ""
    # Before the message `htc train` reports its phases, and the settings if it gets that far.
    lines = [line for line in result.err.splitlines() if line not in PHASES]
    before = lines[: next(number for number, line in enumerate(lines) if line.startswith("htc: "))]
    assert not before or any("Chosen for this dataset" in line or "Derived settings" in line for line in before)
    assert "Traceback" not in result.err
    assert len(lines) <= 12
    for part in parts:
        assert part in result.err


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def bomb() -> bytes:
    """A PNG of a few bytes that claims 50,000 x 50,000 pixels."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 99)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks
    )


def cut_jpeg(folder: Path) -> bytes:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone.jpg", "gone.jpg: no such file; check the path"),
        ("text.jpg", "text.jpg is not an image, or its header is damaged"),
        ("cut.jpg", "cut.jpg is damaged or incomplete"),
        ("empty.jpg", "empty.jpg is empty; copy or download it again"),
        ("bomb.png", "bomb.png has 2500000000 pixels (50000x50000); to accept it, add --max-pixels 2500000000"),
        ("folder", "folder: no images in this folder; supported suffixes: .jpg"),
        ("*.webp", "*.webp: no images in this pattern"),
        ("", "SOURCE is missing"),
    ],
)
def test_unusable_images(htc: Htc, model: Path, tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "cut.jpg").write_bytes(cut_jpeg(tmp_path))
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "folder").mkdir()
    before = files_in(tmp_path)
    refused(htc("predict", source, "--model", model, "--json", "found.json"), message)
    assert files_in(tmp_path) == before


class Malicious:
    """Runs a command when it is unpickled by an ordinary loader."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch owned",)


@pytest.fixture
def checkpoints(tmp_path: Path, model: Path) -> Path:
    """Weights files of all the kinds that cannot be used."""
    weights = (model / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(weights[: len(weights) // 2])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("no weights here\n" * 9)
    torch.save({"state_dict": {"fc.weight": torch.zeros(3, 3)}}, tmp_path / "other.pth")
    torch.save({"state_dict": Malicious()}, tmp_path / "malicious.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"state_dict": Malicious()}))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:700])
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut.safetensors", "damaged, truncated"),
        ("empty.safetensors", "empty file"),
        ("empty.pth", "empty file"),
        ("text.pth", "not a checkpoint"),
        ("cut.pth", "damaged or truncated"),
        ("other.pth", "not a Mask R-CNN, Cascade Mask R-CNN or HTC"),
        ("malicious.pth", "refused: its pickle uses posix.system"),
        ("pickle.pth", "refused: its pickle uses posix.system"),
        ("picture.png", "an image, not weights"),
        ("gone.pth", "no such file or folder"),
        ("empty", "no model in this folder"),
    ],
)
def test_unusable_checkpoints(htc: Htc, checkpoints: Path, data: Path, name: str, message: str) -> None:
    (checkpoints / "empty").mkdir()
    before = files_in(checkpoints)
    refused(htc("predict", data / "val", "--model", name), name, message)
    refused(htc("convert", name, "native"), name, message)
    refused(htc("evaluate", name, "--annotations", data / "annotations" / "instances_val.json"), name, message)
    if name != "gone.pth":
        refused(htc("train", "--data", data, "--preset", "htc_r18_small", "--weights", name), name, message)
    assert files_in(checkpoints) == before  # nothing ran, nothing was made


def test_weights_of_another_architecture(htc: Htc, model: Path, data: Path, tmp_path: Path) -> None:
    refused(htc("predict", data / "val", "--model", PRESET, "--weights", model), str(model), PRESET, "configuration")
    refused(
        htc("train", "--data", data, "--preset", "htc_r18_small", "--weights", model),
        str(model),
        "another architecture",
        "--preset",
    )
    refused(
        htc("predict", data / "val", "--model", model / "model.safetensors", "--weights", model),
        "is already a weights file",
    )
    assert files_in(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "gone.jpg", "--model", PRESET), "gone.jpg: no such file"),
        (("predict", "PICTURE", "--model", PRESET, "--classes", "persn"), "did you mean person?"),
        (
            ("predict", "PICTURE", "--model", PRESET, "--classes", "x", "--max-detections", "3"),
            "its classes are person, bicycle",
        ),
        (
            ("predict", "PICTURE", "--model", PRESET, "--annotations", "gone.json"),
            "gone.json: no such file",
        ),
        (
            ("predict", "PICTURE", "--model", PRESET, "--no-draw"),
            "nothing would be written; add --json FILE or --labelme",
        ),
        (("predict", "PICTURE", "--model", PRESET, "--out", "file"), "--out file: is a file"),
        (("predict", "PICTURE", "--model", PRESET, "--json", "file"), "--json file: exists already"),
        (("predict", "PICTURE", "--model", PRESET, "--device", "cuda:9"), "device 'cuda:9' is not available"),
        (
            ("predict", "PICTURE", "--model", PRESET, "--inference.box_stage", "4"),
            "inference uses stage 4, but cascade.num_stages is 3",
        ),
        (("predict", "PICTURE", "--model", "htc_r18_small"), "no released weights for this preset"),
        (
            ("predict", "PICTURE", "--model", PRESET, "--weights", "htc_r50_fpn_20e_coc"),
            "did you mean htc_r50_fpn_20e_coco?",
        ),
        (
            ("evaluate", PRESET, "--annotations", "ANNOTATIONS"),
            "'disc', 'square', which the model does not have (its classes are person",
        ),
        (("evaluate", PRESET), "no dataset to evaluate on"),
        (("evaluate", PRESET, "--annotations", "ANNOTATIONS", "--save-results", "file"), "--save-results"),
        (("convert", PRESET, "file"), "file exists already"),
        (("convert", PRESET, "file/below"), "DST file/below: file is a file"),
        (("train", "--data", "gone", "--weights", PRESET), "gone: no such folder"),
        (
            ("train", "--train-annotations", "gone.json", "--train-images", ".", "--weights", PRESET),
            "gone.json: no such file",
        ),
        (
            ("train", "--data", "DATA", "--weights", PRESET, "--semantic", "gone"),
            "semantic gone: no such folder; pass auto, none, or",
        ),
        (("train", "--data", "DATA", "--weights", PRESET, "--resume"), "--resume --out DIR"),
        (("train", "--data", "DATA", "--weights", PRESET, "--max-time", "0"), "Give a number above 0."),
        (("train", "--data", "DATA", "--weights", PRESET, "--seed", "-1"), "Give 0 or more."),
        (("train", "--data", "DATA", "--weights", "htc_r18_small"), "this preset has no released weights"),
    ],
)
def test_nothing_is_fetched_for_an_unusable_call(
    htc: Htc, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    def fetch(name: str, **_: object) -> Path:
        raise AssertionError(f"{name} was fetched")

    monkeypatch.setattr(model_module, "fetch", fetch)
    monkeypatch.setenv("HTC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "file").write_text("mine")
    places = {
        "PICTURE": data / "val" / "image0.png",
        "ANNOTATIONS": data / "annotations" / "instances_val.json",
        "DATA": data,
    }
    refused(htc(*(places.get(argument, argument) for argument in arguments)), message)
    assert files_in(tmp_path) == {"file"}


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """No file may grow beyond so many bytes."""
    resource = pytest.importorskip("resource", reason="no file-size limits on this system")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda most: resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            ("predict", "PICTURES", "--model", "MODEL", "--no-draw", "--score-threshold", "0", "--json", "found.json"),
            "found.json",
        ),
        (("predict", "PICTURES", "--model", "MODEL", "--out", "drawn", "--score-threshold", "0"), "drawn/image0.png"),
        (("convert", "MODEL", "native"), "native"),
        (("models", "--json", "list.json"), "list.json"),
    ],
)
def test_a_full_disk(
    htc: Htc,
    model: Path,
    data: Path,
    tmp_path: Path,
    small_disk: Callable[[int], None],
    arguments: tuple[str, ...],
    named: str,
) -> None:
    places = {"PICTURES": data / "val", "MODEL": model}
    small_disk(1000)
    refused(htc(*(places.get(argument, argument) for argument in arguments)), named, "large")
    small_disk(-1)
    assert files_in(tmp_path) == set()
