"""Nothing is overwritten, nothing is left half-written, and a place that cannot be written to is named before the
work.
"""

import errno
import json
import signal
import tempfile
from pathlib import Path

import pytest

from htc.cli.output import check_json_target, filling, folder_for, print_or_write_json, print_table
from htc.errors import OutputError


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
        (tmp_path / "file" / "x", "is a file, so nothing"),
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


def test_json_goes_to_a_file_or_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "found.json"
    check_json_target(str(path))
    print_or_write_json(str(path), [{"score": 0.5}])
    assert json.loads(path.read_text()) == [{"score": 0.5}]
    print_or_write_json("-", {"AP": 1})
    assert json.loads(capsys.readouterr().out) == {"AP": 1}
    print_or_write_json(None, {"AP": 1})
    assert capsys.readouterr().out == ""


def test_json_targets_are_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("[]")
    check_json_target(None)
    check_json_target("-")
    for target, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "old.json", "exists already"),
        (tmp_path / "old.json" / "x", "is a file"),
    ):
        with pytest.raises(OutputError, match=message):
            check_json_target(str(target))


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="no file-size limits on this system")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            OutputError, match=r"found.json: the file would be larger than this system or session allows"
        ):
            print_or_write_json(str(tmp_path / "found.json"), ["x" * 5000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_a_table_in_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    name = "htc_x101_64x4d_fpn_dconv_c3-c5_mstrain_400_1400_16x1_20e_coco"
    print_table(("model", "where"), [(name, "x" * 100), ("b", "c")])
    assert f"{name}  {'x' * 100}" in capsys.readouterr().out
