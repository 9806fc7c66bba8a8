"""Files made to exhaust memory, time or patience, or to command a terminal: refused quickly and calmly, nothing
allocated for them.
"""

import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint.historical import as_v1, as_v2, random_state, save_v1, save_v2, tiny_config
from checkpoint.safe_pickle.test_unpickle import as_legacy, as_zip
from htc.checkpoint import fit
from htc.checkpoint.fit import shapes_of
from htc.checkpoint.formats.mmdetection import read_mmdetection
from htc.checkpoint.formats.mmdetection_config import read_config_facts, read_config_text
from htc.checkpoint.infer import infer_config
from htc.checkpoint.safe_pickle.torch_file import open_torch_file
from htc.checkpoint.stored import read_stored
from htc.errors import CheckpointError

CONFIG = tiny_config()
STATE = random_state(CONFIG)
HUGE = b"\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000  # an integer of 9,600 digits, which Python refuses to print


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _storage(numel: bytes = b"K\x02") -> bytes:
    return b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + numel + b"tQ"


def _tensor(storage: bytes, size: bytes, stride: bytes) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + size + b"\x85" + stride + b"\x85\x89NtR"


def _state(*tensors: bytes) -> bytes:
    return (
        b"\x80\x02}"
        + _text("state_dict")
        + b"}"
        + b"".join(_text(f"w{i}") + tensor + b"s" for i, tensor in enumerate(tensors))
        + b"s."
    )


def _nested_type_calls(depth: int) -> bytes:
    """_rebuild_from_type_v2(itself, _, (itself, _, (...)), _): each call asks for the next."""
    name = b"ctorch._tensor\n_rebuild_from_type_v2\n"
    return b"\x80\x02" + name + (name + b"N") * depth + b"N" + b"\x87" * depth + b"R."


HOSTILE = {
    "bytes of an exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"abc.",
    "text of a terabyte": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"abc.",
    "a buffer of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "an integer of two gigabytes": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.",
    "a storage of unprintable size": _state(_tensor(_storage(HUGE), b"K\x02", b"K\x01")),
    "an unprintable storage key": b"\x80\x02("
    + _text("storage")
    + b"ctorch\nFloatStorage\n"
    + HUGE
    + _text("cpu")
    + b"K\x02tQ.",
    "a storage described twice": _state(
        _tensor(_storage(), b"K\x02", b"K\x01"), _tensor(_storage(b"K\x01"), b"K\x01", b"K\x01")
    ),
    "a view of another storage": b"\x80\x02("
    + _text("storage")
    + b"ctorch\nFloatStorage\n"
    + _text("0")
    + _text("cpu")
    + b"K\x02(K\x00tltQ.",
    "a memo slot that was never filled": b"\x80\x02h\x07.",
    "an empty stack": b"\x80\x02R.",
    "calls in calls in calls": _nested_type_calls(20_000),
    "a marker as a value": b"\x80\x02(\x85(\x85\x86R.",
    "an out-of-band buffer": b"\x80\x05\x97.",
    "an object array of numpy": b"cnumpy\nobject_\n.",
    "a whole old model": b"("
    + _text("module")
    + b"cmmdet.models\nHTC\n"
    + _text("htc.py")
    + _text("class HTC: ...")
    + b"tQ.",
    "a whole new model": b"\x80\x02ctorch.nn.modules.conv\nConv2d\n)\x81.",
}


def _weights(path: Path) -> dict[str, torch.Tensor]:
    file = open_torch_file(path)
    return file.tensors(file.content["state_dict"])


def _refusal(path: Path, read: Callable[[Path], Any]) -> str:
    """What the reader says, in a short message and without taking 64 MiB."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"a\.pth") as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize("container", [as_zip, as_legacy])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_without_allocating(tmp_path: Path, name: str, container: Any) -> None:
    path = container(tmp_path / "a.pth", HOSTILE[name], *([{"0": bytes(8)}] if container is as_zip else []))
    refusal = _refusal(path, _weights)
    assert ("save model.state_dict()" in refusal) == name.startswith("a whole")


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_outside_a_container_are_refused_without_allocating(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(HOSTILE[name])
    _refusal(path, read_stored)


def test_numpy_arrays_of_objects_and_reconstructed_numbers_stay_inert(tmp_path: Path) -> None:
    array = pickle.dumps({"array": __import__("numpy").array([1, "x", None], dtype=object)}, 2)
    found = open_torch_file(as_zip(tmp_path / "a.pth", array)).content["array"]
    assert type(found).__name__ == "Foreign"
    evil = array.replace(_text("x"), b"cos\nsystem\n" + _text("true") + b"\x85R")
    assert evil != array
    with pytest.raises(CheckpointError, match=r"os\.system"):
        open_torch_file(as_zip(tmp_path / "b.pth", evil))


def test_views_of_one_storage_cannot_add_up_to_a_full_memory(tmp_path: Path) -> None:
    large = _tensor(_storage(b"J" + struct.pack("<i", 1 << 16)), b"J" + struct.pack("<i", 1 << 16), b"K\x01")
    assert len(_weights(as_zip(tmp_path / "tied.pth", _state(large, large), {"0": bytes(1 << 18)}))) == 2
    bomb = as_zip(tmp_path / "bomb.pth", _state(*[large] * 50), {"0": bytes(1 << 18)})
    with pytest.raises(CheckpointError, match="repeat the same stored values"):
        _weights(bomb)


def test_overlapping_parts_of_an_archive_are_refused(tmp_path: Path) -> None:
    path = as_zip(
        tmp_path / "a.pth", b"\x80\x02}.", {str(number): bytes(1 << 12) if number == 0 else b"" for number in range(50)}
    )
    content = bytearray(path.read_bytes())
    entries = [at for at in range(len(content) - 4) if content[at : at + 4] == b"PK\x01\x02"]
    first = content[entries[1] : entries[1] + 46]
    for at in entries[2:]:  # every storage now claims the bytes of the first
        content[at + 16 : at + 28] = first[16:28]
        content[at + 42 : at + 46] = first[42:46]
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="overlap"):
        open_torch_file(path)


def test_a_refusal_cannot_command_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_torch_file(as_zip(tmp_path / "a.pth", b"\x80\x04" + b"\x8c\x06\x1b[2Jos" + b"\x8c\x06system\x93."))
    assert "\x1b" not in str(caught.value)
    weights = as_v2(STATE) | {"\x1b[2J": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="no readable name"):
        read_mmdetection(save_v2(tmp_path / "b.pth", weights))
    assert read_mmdetection(save_v2(tmp_path / "c.pth", as_v2(STATE), classes=("a\x1b[2J", "b", "c"))).classes == (
        "a[2J",
        "b",
        "c",
    )


SQUARING = "a = 99999\n" + "a = a * a\n" * 60
DOUBLING = (
    "t = [dict(type='Normalize', mean=[1.0, 2.0, 3.0])]\n"
    + "t = [dict(transforms=t), dict(transforms=t)]\n" * 60
    + "model = dict()\ntest_pipeline = t\n"
)
DEEP = (
    "x = [1]\n" + "x = [x]\n" * 5_000 + "model = dict(type=x, backbone=dict(type=x), neck=dict(type=x), "
    "roi_head=dict(bbox_head=[dict(reg_class_agnostic=x)]))\n"
)


@pytest.mark.parametrize(
    "text",
    [
        SQUARING,
        DOUBLING,
        DEEP,
        "x = " + "-" * 100_000 + "1",
        "x = " + "(" * 10_000,
        "x" + ".y" * 50_000,
        "model = dict(\x00)",
        "x = 1 / 0",
    ],
)
def test_configuration_text_cannot_take_memory_or_time(text: str) -> None:
    facts = read_config_facts(read_config_text(text))
    assert facts.refusals == []


@pytest.mark.parametrize(
    "value",
    ["[1]", "dict()", "{}", "1e999", "9" * 400, "-1", "'x'", "None", "True", "[[]]", "(1, 'a')", "[1e999, 1, 1]"],
)
def test_configuration_text_with_values_of_the_wrong_type(value: str) -> None:
    text = f"""
model = dict(type={value}, backbone=dict(frozen_stages={value}, dcn=dict(deform_groups=1), norm_cfg={value}),
        neck={value},
    rpn_head=dict(anchor_generator=dict(scales=[8], ratios={value}), loss_bbox=dict(type={value})),
    roi_head=dict(interleaved={value}, semantic_fusion={value}, stage_loss_weights={value},
        bbox_head=[dict(reg_class_agnostic={value}, bbox_coder=dict(target_stds={value})), dict(bbox_coder={value}),
        {value}]),
    train_cfg=dict(rcnn={value}), test_cfg=dict(rpn={value}, rcnn=dict(nms=dict(type={value}), score_thr={value})))
img_norm_cfg = dict(mean={value}, std={value}, to_rgb={value})
test_pipeline = [dict(type={value}, img_scale={value}, transforms={value}), {value}]
"""
    refusals = read_config_facts(read_config_text(text)).refusals
    assert all("is a x" in refusal for refusal in refusals)  # a type of the name x is another model


def test_a_windows_path_in_the_text_causes_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert read_config_text(r"data_root = 'D:\data'" + "\nmodel = dict(type='HTC')")["model"] == {"type": "HTC"}
    assert not recwarn.list


def _fit(state: dict[str, torch.Tensor]) -> None:
    fit.fit_weights(state, infer_config(shapes_of(state), {}, None), Path("a.pth"))


@pytest.mark.parametrize("change", ["left out", "a single number", "empty", "one row more"])
def test_every_single_tensor_matters(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Without any one of them, or with it misshapen, the file is an error that names a tensor, never a crash or a
    model.
    """
    shapes = fit.expected_shapes(CONFIG)
    monkeypatch.setattr(fit, "expected_shapes", lambda _: shapes)
    for name in [name for name in STATE if not name.endswith("num_batches_tracked")]:
        tensor = STATE[name]
        changed = {
            "a single number": torch.tensor(1.0),
            "empty": tensor[:0],
            "one row more": torch.cat([tensor, tensor[:1]]),
        }
        state = (
            {**STATE, name: changed[change]}
            if change in changed
            else {key: value for key, value in STATE.items() if key != name}
        )
        with pytest.raises(CheckpointError) as caught:
            _fit(state)
        assert str(caught.value)


@pytest.mark.parametrize("year", ["2019", "2020"])
@pytest.mark.parametrize(
    "name", ["fc_cls.weight", "fc_cls.bias", "fc_reg.weight", "conv_logits.bias", "shared_fcs.0.weight"]
)
def test_single_numbers_where_rows_are_reordered(tmp_path: Path, year: str, name: str) -> None:
    weights = as_v1(STATE) if year == "2019" else as_v2(STATE)
    weights = {key: torch.tensor(1.0) if key.endswith(name) else value for key, value in weights.items()}
    with pytest.raises(CheckpointError, match="is a scalar"):
        read_mmdetection((save_v1 if year == "2019" else save_v2)(tmp_path / "a.pth", weights))


def test_quantised_weights_are_an_error() -> None:
    state = {**STATE, "rpn.conv.weight": STATE["rpn.conv.weight"].to(torch.int8)}
    with pytest.raises(CheckpointError, match=r"rpn\.conv\.weight .file torch\.int8"):
        fit.fit_weights(state, CONFIG, Path("a.pth"))
