"""Pickles of NumPy arrays are known by their content, read as data, and refused where they are hostile or somebody
else's.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoint.formats.test_detectron2_and_paddle import STRIDE, arrays, as_detectron2, tiny
from checkpoint.historical import random_state
from htc.checkpoint.load import load_model
from htc.checkpoint.stored import read_stored
from htc.errors import CheckpointError


@pytest.mark.parametrize("name", ["model.pth", "model.pkl", "model.pdparams", "model", "model.bin"])
def test_the_container_is_told_by_its_content(tmp_path: Path, name: str) -> None:
    """Not by the file's name: torch's zip, torch's serialisation before it, and pickles of arrays of every protocol
    with a header.
    """
    state = random_state(tiny(1))
    theirs = as_detectron2(state, 1)
    path = tmp_path / name
    for write in (
        lambda: torch.save({"model": theirs}, path),
        lambda: torch.save({"model": theirs}, path, _use_new_zipfile_serialization=False),
        lambda: path.write_bytes(pickle.dumps({"model": arrays(theirs)}, 2)),
        lambda: path.write_bytes(pickle.dumps({"model": arrays(theirs)}, 5)),
    ):
        write()
        assert torch.equal(load_model(path, overrides=STRIDE).state_dict["rpn.conv.weight"], state["rpn.conv.weight"])


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_torchs_older_serialisation_is_known_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    torch.save(
        {"w": torch.ones(3)}, tmp_path / "model.pkl", _use_new_zipfile_serialization=False, pickle_protocol=protocol
    )
    assert read_stored(tmp_path / "model.pkl").tensors["w"].tolist() == [1, 1, 1]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pickle.dumps({"a": Evil()}), "refused: .*print.*Nothing in it was executed"),
        (pickle.dumps({"a": np.zeros(300)})[:-40], "damaged"),
        (pickle.dumps({"rpn_head.rpn_rois_score.weight": np.zeros(3, np.float32)}), "only the reproduction of HTC"),
        (pickle.dumps({"a": np.zeros(3, np.complex64)}), "type <c8"),
        (pickle.dumps({"a": np.zeros(3, ">f4")}), "type >f4"),
        (pickle.dumps({"a": 1}), "neither of torch.save nor with named arrays"),
        (pickle.dumps({"fc.weight": np.zeros((3, 2))}), "not a Mask R-CNN"),
        (b"", "empty file"),
        (b"\x80\x04\x8e" + (2**60).to_bytes(8, "little") + b"abc.", "damaged"),
        (pickle.dumps({"a": np.zeros(3)}, 0), "nor of arrays in protocol 2 or later"),
        (b"<html>", "an HTML or XML page"),
    ],
)
def test_hostile_and_foreign_pickles_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, says: str
) -> None:
    path = tmp_path / "x.pdparams"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        load_model(path)
    assert not capsys.readouterr().out
