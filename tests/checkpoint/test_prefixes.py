"""Prefixes of wrappers, several models in one file, and weights that are not finite."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import htc
from checkpoint.historical import as_v1, as_v2, random_state, save_v2, tiny_config
from htc.checkpoint.check import check_model, check_weights
from htc.checkpoint.load import convert_checkpoint, load_model
from htc.checkpoint.native import save_pretrained
from htc.checkpoint.prefixes import split_choice, without_common_prefix
from htc.errors import CheckpointError

CONFIG = tiny_config()
STATE = random_state(CONFIG)
OTHER = random_state(CONFIG, seed=1)
PREFIXES = (
    *("module.", "module.module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "detector."),
    *("model._orig_mod.", "student.", "teacher.", "ema.", "anything.at.all.", "_forward_module.", "net.module."),
)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in state.items()}


def write(where: Path, kind: str, state: dict[str, Tensor]) -> Path:
    """Write the state as a folder of ours, a .safetensors file, a .pth or a checkpoint with a state_dict."""
    if kind == "folder":
        return save_pretrained(state, CONFIG, where / "folder")
    path = where / f"a.{'safetensors' if kind == 'safetensors' else 'pth'}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "state_dict" else state, path)
    return path


def assert_is(loaded: Any, state: dict[str, Tensor]) -> None:
    assert loaded.state_dict.keys() == state.keys()
    assert all(torch.equal(loaded.state_dict[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("kind", ["folder", "safetensors", "pth", "state_dict"])
@pytest.mark.parametrize("prefix", ["", *PREFIXES])
def test_prefixes_are_removed_and_reported(tmp_path: Path, prefix: str, kind: str) -> None:
    path = write(tmp_path, kind, prefixed(prefix, STATE))
    loaded = convert_checkpoint(path, tmp_path / "converted")
    assert_is(loaded, STATE)
    assert any(prefix in note for note in loaded.report.notes) if prefix else not loaded.report.notes
    assert dict(loaded.report.renamed) == ({prefix + name: name for name in STATE} if prefix else {})
    assert_is(load_model(tmp_path / "converted"), STATE)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("year", ["2019", "2020"])
def test_prefixes_of_files_of_mmdetection(tmp_path: Path, prefix: str, year: str) -> None:
    theirs = (as_v1 if year == "2019" else as_v2)(STATE)
    loaded = load_model(save_v2(tmp_path / "a.pth", prefixed(prefix, theirs)))
    assert_is(loaded, {**STATE, **{n: t for n, t in loaded.state_dict.items() if n.endswith("num_batches_tracked")}})
    report = json.dumps(loaded.report.to_json())
    assert f"{prefix}rpn_head.rpn_cls.weight" in report
    assert all(theirs.startswith(prefix) for theirs, _ in loaded.report.renamed)


def test_wrappers_of_single_parts_are_removed(tmp_path: Path) -> None:
    wrapped = {
        name.replace("backbone.", "backbone._orig_mod.").replace("rpn.", "rpn._checkpoint_wrapped_module."): t
        for name, t in STATE.items()
    }
    loaded = load_model(write(tmp_path, "pth", prefixed("module.", wrapped)))
    assert_is(loaded, STATE)
    assert {"the wrapper _orig_mod. inside names was removed"} < set(loaded.report.notes)


def test_tensors_beside_the_model_are_left_out_and_reported(tmp_path: Path) -> None:
    beside = {"criterion.weight": torch.ones(2)}
    loaded = load_model(write(tmp_path, "pth", prefixed("model.", STATE) | beside))
    assert_is(loaded, STATE)
    assert [name for name, _ in loaded.report.dropped] == ["criterion.weight"]
    with pytest.raises(CheckpointError, match=r"unexpected: criterion\.weight"):
        load_model(write(tmp_path, "pth", STATE | beside))


@pytest.mark.parametrize("kind", ["folder", "safetensors", "pth", "state_dict", "apart"])
def test_two_models_are_listed_and_one_is_chosen(tmp_path: Path, kind: str) -> None:
    if kind == "apart":
        path = tmp_path / "a.pth"
        torch.save({"teacher": STATE, "student": {"module." + name: t for name, t in OTHER.items()}}, path)
    else:
        path = write(tmp_path, kind, prefixed("teacher.", STATE) | prefixed("student.module.", OTHER))
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    for part in (f"{path}#teacher", f"{path}#student", "contains 2 models"):
        assert part in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert_is(load_model(f"{path}#teacher"), STATE)
    assert_is(load_model(f"{path}#student"), OTHER)
    with pytest.raises(CheckpointError, match="no model named nobody"):
        load_model(f"{path}#nobody")


@pytest.mark.parametrize("form", ["names", "dictionaries"])
def test_the_plain_model_beside_its_ema_is_loaded_with_a_warning(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.pth"
    both = (
        {"state_dict": STATE | prefixed("ema.", OTHER)}
        if form == "names"
        else {"state_dict": STATE, "ema": prefixed("module.", OTHER)}
    )
    torch.save(both, path)
    with caplog.at_level(logging.WARNING, logger="htc"):
        assert_is(load_model(path), STATE)
    assert f"{path}#ema" in caplog.text
    caplog.clear()
    assert_is(load_model(f"{path}#ema"), OTHER)
    assert not caplog.text


def test_a_model_that_is_in_the_file_twice_counts_once(tmp_path: Path) -> None:
    torch.save(
        {f"{prefix}{name}": t for name, t in STATE.items() for prefix in ("detector.", "objective.detector.")},
        tmp_path / "a.pth",
    )
    assert_is(load_model(tmp_path / "a.pth"), STATE)


def test_a_choice_is_part_of_every_way_in(tmp_path: Path) -> None:
    path = write(tmp_path, "safetensors", prefixed("teacher.", STATE) | prefixed("student.", OTHER))
    own = save_pretrained(OTHER, CONFIG, tmp_path / "own")
    assert_is(load_model(own, f"{path}#teacher"), STATE)
    check_weights(f"{path}#teacher")
    check_model(f"{path}#teacher", None, ())
    model = htc.load(f"{path}#teacher", device="cpu")
    assert_is(load_model(model.save(tmp_path / "saved") or tmp_path / "saved"), STATE)
    with pytest.raises(CheckpointError, match="no such"):
        check_weights(f"{tmp_path}/none.pth#teacher")


def test_a_file_with_the_separator_in_its_name_is_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, "safetensors", STATE)
    path = path.rename(tmp_path / "run#7.safetensors")
    assert split_choice(path) == (str(path), None)
    assert_is(load_model(path), STATE)
    with pytest.raises(CheckpointError, match="no model named teacher"):
        load_model(f"{path}#teacher")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.b.c", "a.b.d"], {"c": "a.b.c", "d": "a.b.d"}),
        (["a.b", "a"], {"a.b": "a.b", "a": "a"}),
        (["a.b"], {"a.b": "a.b"}),
        ([], {}),
    ],
)
def test_the_common_prefix(names: list[str], expected: dict[str, str]) -> None:
    assert without_common_prefix(names) == expected


@pytest.mark.parametrize("kind", ["folder", "safetensors", "state_dict"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_the_tensors_names(tmp_path: Path, kind: str, value: float) -> None:
    names = ("roi.box_heads.1.classify.weight", "backbone.bn1.running_var")
    state = {name: tensor.clone() for name, tensor in STATE.items()}
    for name in names:
        state[name].view(-1)[0] = value
    with pytest.raises(CheckpointError) as caught:
        load_model(write(tmp_path, kind, prefixed("module.", state)))
    assert "2 tensors contain NaN or infinite values" in str(caught.value)
    assert all(f"module.{name}" in str(caught.value) for name in names)


def test_large_values_are_finite(tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in STATE.items()}
    state["rpn.conv.weight"].fill_(3e38)
    assert_is(load_model(write(tmp_path, "safetensors", state)), state)
