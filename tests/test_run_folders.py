"""Run folders are never overwritten and never left behind empty; a folder that takes no files is reported first."""

import errno
import tempfile
from pathlib import Path

import pytest

from htc.errors import OutputError
from htc.run_folders import filling, folder_for


def test_default_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_for("predict", "street", None) == Path("runs/predict/street")
    assert list(tmp_path.iterdir()) == []  # nothing is created by asking
    Path("runs/predict/street").mkdir(parents=True)
    Path("runs/predict/street-2").mkdir()
    assert folder_for("predict", "street", None) == Path("runs/predict/street-3")


def test_an_empty_or_new_folder_is_accepted(tmp_path: Path) -> None:
    assert folder_for("train", "x", tmp_path) == tmp_path
    assert folder_for("train", "x", tmp_path / "a" / "b") == tmp_path / "a" / "b"


def test_a_used_folder_a_file_and_a_place_below_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out, message in (
        (tmp_path, "is not empty"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "x", "is a file, not a folder"),
    ):
        with pytest.raises(OutputError, match=message) as caught:
            folder_for("train", "x", out)
        assert f"--out {out}" in str(caught.value)


def test_a_place_that_takes_no_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, reason in (
        (errno.EACCES, "no permission"),
        (errno.EROFS, "that disk is read-only"),
        (errno.ENOENT, "no file can be created there"),
    ):

        def refuse(
            number: int = number, **place: object
        ) -> None:  # root may write everywhere, so a real folder would not do
            raise OSError(number, "refused")

        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
        with pytest.raises(OutputError, match=f"--out .*new: cannot write in {tmp_path}: {reason}"):
            folder_for("train", "x", tmp_path / "new")


def test_a_run_that_fails_at_once_leaves_no_empty_folder(tmp_path: Path) -> None:
    with filling(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir(parents=True)
    assert list(tmp_path.iterdir()) == []
    with filling(tmp_path / "a"):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "result").write_text("x")
    with filling(tmp_path / "a"):
        (tmp_path / "a" / "result").unlink()
    assert (tmp_path / "a").is_dir()  # it was there before
