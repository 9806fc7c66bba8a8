"""`htc predict --resume`: an interrupted prediction continues, with the same outputs as one without interruption."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.conftest import Result
from htc.inference.outputs import PredictionWriter

Htc = Callable[..., Result]
IMAGES = 5


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    numbers = np.random.default_rng(0)
    for index in range(IMAGES):
        Image.fromarray(numbers.integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


def interrupt_after(monkeypatch: pytest.MonkeyPatch, images: int, *, in_writing: bool) -> None:
    """Ctrl-C at an image: before its files are written, or after, before it is recorded."""
    write, done = PredictionWriter.write, []

    def stop(self: PredictionWriter, *arguments: object) -> object:
        if len(done) == images and not in_writing:
            raise KeyboardInterrupt
        found = write(self, *arguments)  # type: ignore[arg-type]
        done.append(1)
        if len(done) > images:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(PredictionWriter, "write", stop)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


OUTPUTS = {
    "json": ["--json", "{}/r.json", "--no-draw"],
    "drawings": ["--out", "{}/out"],
    "labelme": ["--out", "{}/out", "--labelme"],
    "all": ["--json", "{}/r.json", "--out", "{}/out", "--labelme"],
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("in_writing", [False, True])
def test_an_interrupted_prediction_continues(
    htc: Htc, tmp_path: Path, model: Path, photos: Path, kind: str, in_writing: bool
) -> None:
    def call(folder: str, *more: str) -> list[str]:
        (tmp_path / folder).mkdir(exist_ok=True)
        outputs = [one.format(tmp_path / folder) for one in OUTPUTS[kind]]
        return ["predict", str(photos), "--model", str(model), "--score-threshold", "0.01", *outputs, *more]

    assert htc(*call("whole")).code == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 2, in_writing=in_writing)
        stopped = htc(*call("run"))
    assert stopped.code == 130
    assert "2 images are finished: repeat the call with --resume" in stopped.err
    again = htc(*call("run"))
    assert again.code == 2
    assert "--resume" in again.err or "not empty" in again.err
    other = htc(*call("run", "--resume", "--max-detections", "3"))
    assert other.code == 2
    assert "other options (inference.max_detections)" in other.err
    resumed = htc(*call("run", "--resume"))
    assert resumed.code == 0, resumed.err
    assert f"{IMAGES} images done" in resumed.err
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    if "--json" in OUTPUTS[kind]:
        complete = htc(*call("run", "--resume"))
        assert complete.code == 0
        assert "is complete" in complete.err
    else:
        assert "nothing to resume" in htc(*call("run", "--resume")).err


def test_an_interruption_before_the_first_image_leaves_nothing(
    htc: Htc, tmp_path: Path, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 0, in_writing=False)
    before = files(tmp_path)
    assert htc("predict", photos, "--model", model, "--json", "r.json", "--no-draw").code == 130
    assert files(tmp_path) == before


def test_a_torn_line_of_the_record_is_repeated(htc: Htc, tmp_path: Path, model: Path, photos: Path) -> None:
    call = ["predict", str(photos), "--model", str(model), "--json", "r.json", "--no-draw"]
    with pytest.MonkeyPatch.context() as patch:
        interrupt_after(patch, 3, in_writing=False)
        htc(*call)
    record = tmp_path / "r.json.part"
    whole = record.read_bytes()
    record.write_bytes(whole[:-7])
    (tmp_path / ".r.json.12345.tmp").write_text("left by a killed process")
    assert htc(*call, "--resume").code == 0
    assert htc(*call[:-2], "whole.json", "--no-draw").code == 0
    assert (tmp_path / "r.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "whole.json"]


@pytest.mark.parametrize("content", [b"", b'{"call', b"[]\n", b"something else\n", b'{"call": {}}\nx\n'])
def test_other_files_are_not_taken_for_a_record(
    htc: Htc, tmp_path: Path, model: Path, photos: Path, content: bytes
) -> None:
    (tmp_path / "r.json.part").write_bytes(content)
    call = ["predict", str(photos / "0.png"), "--model", str(model), "--json", "r.json", "--no-draw"]
    assert htc(*call).code == 2
    found = htc(*call, "--resume")
    if content in (b"", b'{"call'):  # interrupted in its first line
        assert found.code == 0
        assert json.loads((tmp_path / "r.json").read_text()) is not None
    else:
        assert found.code == 2
        assert "r.json.part" in found.err
        assert (tmp_path / "r.json.part").read_bytes() == content


def test_resume_needs_the_folder(htc: Htc, model: Path, photos: Path) -> None:
    found = htc("predict", photos, "--model", model, "--resume")
    assert found.code == 2
    assert "--resume needs --out DIR" in found.err
