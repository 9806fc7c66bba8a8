"""Our folders: what is saved comes back, what cannot be saved leaves nothing, what is damaged is named."""

import json
import os
import resource
import signal
import socket
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from checkpoint.historical import random_state, tiny_config
from htc.checkpoint.load import load_model
from htc.checkpoint.native import from_pretrained, save_pretrained
from htc.errors import CheckpointError, OutputError
from htc.model.detector import Detector

CONFIG = tiny_config()
STATE = random_state(CONFIG)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pretrained(STATE, CONFIG, tmp_path_factory.mktemp("native") / "run" / "model")


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[name], tensor) for name, tensor in STATE.items())


def test_a_folder_a_run_folder_and_the_bare_file_give_the_same(folder: Path) -> None:
    config, state = from_pretrained(folder)
    assert config == CONFIG
    assert same(state)
    for place in (folder, folder.parent, folder / "model.safetensors"):
        loaded = load_model(place)
        assert loaded.config == CONFIG
        assert same(loaded.state_dict)
        assert loaded.report.fits
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_module_in_channels_last_with_shared_tensors(tmp_path: Path) -> None:
    detector = Detector(CONFIG).to(memory_format=torch.channels_last)
    state = detector.state_dict()
    state["neck.output.1.conv.bias"] = state["neck.output.0.conv.bias"]
    loaded = load_model(save_pretrained(detector, CONFIG, tmp_path / "a"))
    Detector(CONFIG).load_state_dict(loaded.state_dict)
    assert torch.equal(
        loaded.state_dict["neck.output.0.conv.weight"], detector.state_dict()["neck.output.0.conv.weight"]
    )
    assert torch.equal(
        from_pretrained(save_pretrained(state, CONFIG, tmp_path / "b"))[1]["neck.output.1.conv.bias"],
        state["neck.output.0.conv.bias"],
    )


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    small = {"a": torch.ones(2)}
    save_pretrained(small, CONFIG, tmp_path)
    save_pretrained({"a": torch.zeros(2)}, CONFIG.replace(preset="second"), tmp_path)
    config, state = from_pretrained(tmp_path)
    assert config.preset == "second"
    assert state["a"].tolist() == [0.0, 0.0]


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        for _ in range(2):  # new files, and files that are replaced
            save_pretrained({"a": torch.ones(2)}, CONFIG, tmp_path / "model")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert modes == {"config.json": mode, "model.safetensors": mode}


def test_a_full_disk_leaves_the_old_model_whole(tmp_path: Path) -> None:
    save_pretrained({"a": torch.ones(2)}, CONFIG, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        with pytest.raises(OutputError, match="cannot be written"):
            save_pretrained({"a": torch.ones(1 << 18)}, CONFIG, tmp_path)
        with pytest.raises(OutputError):
            save_pretrained({"a": torch.ones(1 << 18)}, CONFIG, tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert from_pretrained(tmp_path)[1]["a"].tolist() == [1.0, 1.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_in_the_folders_place(tmp_path: Path, below: str) -> None:
    (tmp_path / "model").write_text("in the way")
    with pytest.raises(OutputError, match="another folder"):
        save_pretrained({}, CONFIG, tmp_path / "model" / below)


def test_unknown_keys_and_wrong_types_are_listed_together(tmp_path: Path) -> None:
    save_pretrained({"a": torch.ones(1)}, CONFIG, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["cascade"]["num_stage"] = 3
    values["rpn"]["proposals"] = "many"
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as caught:
        from_pretrained(tmp_path)
    assert "cascade.num_stage" in str(caught.value)
    assert "rpn.proposals" in str(caught.value)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "\x00", '{"classes": ', '{"a": "' + "x" * 5000, '"' + "x" * 5000 + '"']
)
def test_a_damaged_configuration(tmp_path: Path, text: str) -> None:
    save_pretrained({"a": torch.ones(1)}, CONFIG, tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        from_pretrained(tmp_path)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [b"", b"\x00" * 4, b"\xff" * 100, b"PK\x03\x04"])
def test_damaged_weights(tmp_path: Path, content: bytes) -> None:
    save_pretrained({"a": torch.ones(1)}, CONFIG, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    for load in (lambda: from_pretrained(tmp_path), lambda: load_model(tmp_path / "model.safetensors")):
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load()


def test_truncated_weights(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load_model(tmp_path / "model.safetensors")


def test_folders_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model in this folder"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(CONFIG.model_dump_json())
    with pytest.raises(CheckpointError, match="interrupted"):
        load_model(tmp_path)


def test_safetensors_without_our_metadata_is_read_from_its_shapes(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    loaded = load_model(tmp_path / "a.safetensors")
    assert same(loaded.state_dict)
    assert loaded.config.cascade == CONFIG.cascade


def test_folders_load_without_a_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert same(load_model(folder).state_dict)
    assert same(load_model(folder / "model.safetensors").state_dict)
