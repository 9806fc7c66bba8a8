"""No pickle runs: each malicious file is refused by the name it asks for, and leaves no trace of having been run."""

import io
import os
import pickle
import random
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint.historical import ForeignPackage
from htc.checkpoint.safe_pickle.torch_file import open_torch_file
from htc.checkpoint.safe_pickle.unpickle import PickleMachine
from htc.checkpoint.safe_pickle.values import Foreign, TensorReference, UnsafePickleError
from htc.errors import CheckpointError


class Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def as_zip(
    path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for key, values in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", values)
    return path


def as_legacy(path: Path, pickled: bytes) -> Path:
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join([*head, pickled, pickle.dumps([], 2)]))
    return path


def touch(mark: Path) -> str:
    return f"touch {mark}"


def attacks(mark: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> (pickle, what the refusal must name). Each would create `mark` if it were run."""
    shell, code = touch(mark), f"open({str(mark)!r}, 'w')"
    text = lambda value: b"X" + struct.pack("<I", len(value)) + value.encode()  # noqa: E731
    return {
        "reduce os.system": (pickle.dumps(Calls(os.system, shell), 2), "posix.system"),
        "reduce eval": (pickle.dumps(Calls(eval, code), 2), "builtins.eval"),
        "reduce exec, protocol 4": (pickle.dumps(Calls(exec, code), 4), "builtins.exec"),
        "protocol 0": (pickle.dumps(Calls(os.system, shell), 0), "posix.system"),
        "in the state dict": (
            pickle.dumps({"state_dict": {"backbone.conv1.weight": Calls(os.system, shell)}}, 2),
            "posix.system",
        ),
        "in the meta": (
            pickle.dumps({"meta": {"CLASSES": Calls(os.system, shell)}, "state_dict": {}}, 2),
            "posix.system",
        ),
        "as a dict key": (pickle.dumps({Calls(eval, code): 1}, 2), "builtins.eval"),
        "inst": (b"(S'" + shell.encode() + b"'\nios\nsystem\n.", "os.system"),
        "obj": (b"(cos\nsystem\n" + text(shell) + b"o.", "os.system"),
        "newobj": (b"\x80\x02csubprocess\nPopen\n" + text(shell) + b"\x85\x81.", "subprocess.Popen"),
        "newobj_ex": (b"\x80\x04csubprocess\nPopen\n" + text(shell) + b"\x85}\x92.", "subprocess.Popen"),
        "stack_global": (b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text(shell) + b"\x85R.", "os.system"),
        "python 2 name": (b"c__builtin__\neval\n(V" + code.encode() + b"\ntR.", "builtins.eval"),
        "getattr chain": (b"cbuiltins\ngetattr\n(ctorch\nTensor\nV__class__\ntR.", "builtins.getattr"),
        "getattr of a historical class": (
            b"cbuiltins\ngetattr\n(cmmengine.logging\nLogger\nV__globals__\ntR.",
            "builtins.getattr",
        ),
        "module reached through a historical one": (
            b"cmmcv.os\nsystem\n(V" + shell.encode() + b"\ntR.",
            "mmcv.os.system",
        ),
        "dotted name through a historical one": (
            b"\x80\x04\x8c\x04mmcv\x8c\x09os.system\x93" + text(shell) + b"\x85R.",
            "mmcv.os.system",
        ),
        "look-alike package": (b"cmmcv_evil\nrun\n)R.", "mmcv_evil.run"),
        "nested torch.load": (
            b"ctorch.serialization\nload\n(V" + str(mark).encode() + b"\ntR.",
            "torch.serialization.load",
        ),
        "nested storage bytes": (
            b"ctorch.storage\n_load_from_bytes\n(V" + code.encode() + b"\ntR.",
            "torch.storage._load_from_bytes",
        ),
        "torch.hub": (b"ctorch.hub\nload\n(Vx\nVy\ntR.", "torch.hub.load"),
        "numpy test runner": (
            b"cnumpy.testing._private.utils\nrunstring\n(V" + code.encode() + b"\nN}tR.",
            "runstring",
        ),
        "import": (b"cbuiltins\n__import__\n(Vos\ntR.", "builtins.__import__"),
        "setstate of a function": (
            b"ctorch._utils\n_rebuild_tensor_v2\n}V__code__\nVx\nsb.",
            "torch._utils._rebuild_tensor_v2",
        ),
        "state of a class": (b"ccollections\nOrderedDict\n}V__init__\nVx\nsb.", "collections.OrderedDict"),
        "items on a class": (b"ccollections\nOrderedDict\nVk\nVv\ns.", "Symbol"),
        "hidden in a tensor's arguments": (
            b"ctorch._utils\n_rebuild_parameter\n(cos\nsystem\n(V" + shell.encode() + b"\ntRI01\nNtR.",
            "os.system",
        ),
        "extension registry": (b"\x80\x02\x82\x01.", "EXT1"),
        "extension registry, two bytes": (b"\x80\x02\x83\x01\x00.", "EXT2"),
        "extension registry, four bytes": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
        "dotted name through a harmless one": (
            b"\x80\x04" + text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93.",
            "__globals__",
        ),
        "a global named by a global": (
            b"\x80\x04ccollections\nOrderedDict\n" + text("system") + b"\x93.",
            "not a string",
        ),
        "a name from the memo": (
            b"\x80\x04" + text("os") + b"\x94" + text("system") + b"\x9400h\x00h\x01\x93" + text(shell) + b"\x85R.",
            "os.system",
        ),
        "factory of a default dict": (b"ccollections\ndefaultdict\n(cos\nsystem\ntR.", "os.system"),
        "class of an array": (
            b"cnumpy.core.multiarray\n_reconstruct\n(csubprocess\nPopen\n(I0\ntVb\ntR.",
            "subprocess.Popen",
        ),
        "old reconstructor": (
            b"ccopy_reg\n_reconstructor\n(csubprocess\nPopen\nc__builtin__\nobject\nNtR.",
            "subprocess.Popen",
        ),
        "a call of a placeholder": (b"cmmcv\nConfig\n)R)R.", "calls a Foreign"),
        "a call of text": (b"Vos.system\n(V" + shell.encode() + b"\ntR.", "calls a str"),
        "map over a function": (b"cbuiltins\nmap\n(cos\nsystem\n(V" + shell.encode() + b"\nltR.", "builtins.map"),
        "operator.attrgetter": (b"coperator\nattrgetter\n(Vsystem\ntR.", "operator.attrgetter"),
        "functools.partial": (b"cfunctools\npartial\n(cos\nsystem\ntR.", "functools.partial"),
        "state on a placeholder's class": (b"cmmcv\nConfig\n}V__setstate__\ncos\nsystem\nsb.", "os.system"),
        "text persistent id": (b"Pos.system\n.", "PERSID"),
        "persistent id of a class": (b"(Vstorage\ncos\nsystem\nV0\nVcpu\nI1\ntQ.", "os.system"),
    }


NAMES = sorted(attacks(Path("mark")))


@pytest.mark.parametrize("container", [as_zip, as_legacy])
@pytest.mark.parametrize("name", NAMES)
def test_malicious_pickles_are_refused_by_name_and_never_run(tmp_path: Path, name: str, container: Any) -> None:
    mark = tmp_path / "mark"
    pickled, named = attacks(mark)[name]
    with pytest.raises(CheckpointError) as caught:
        open_torch_file(container(tmp_path / "evil.pth", pickled))
    assert named in str(caught.value)
    assert "evil.pth" in str(caught.value)
    assert "refused" in str(caught.value)
    assert not mark.exists()


def test_naming_a_historical_class_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "mmcv_custom.py").write_text(
        f"open({str(mark)!r}, 'w')\nclass Config:\n    def __setstate__(self, state): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    pickled = b"cmmcv_custom\nConfig\n)R}Va\nI1\nsb."
    for container in (as_zip, as_legacy):
        assert open_torch_file(container(tmp_path / "a.pth", pickled)).content.state == {"a": 1}
    assert not mark.exists()
    assert "mmcv_custom" not in sys.modules
    pickle.loads(pickled)  # so that the marks above mean something
    assert mark.exists()
    monkeypatch.delitem(sys.modules, "mmcv_custom")


def test_the_attacks_would_work_on_pythons_own_unpickler(tmp_path: Path) -> None:
    """Without this the test above could pass with pickles that do nothing."""
    for name in (
        "reduce os.system",
        "reduce eval",
        "inst",
        "obj",
        "stack_global",
        "a name from the memo",
        "protocol 0",
        "in the state dict",
    ):
        mark = tmp_path / "mark"
        pickle.loads(attacks(mark)[name][0])
        assert mark.exists(), name
        mark.unlink()


def test_torch_save_with_a_malicious_object(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"state_dict": {"w": torch.ones(2)}, "optimizer": Calls(os.system, touch(mark))}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        open_torch_file(tmp_path / "evil.pth")
    assert not mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_come_back_as_they_were_saved(tmp_path: Path, zipped: bool) -> None:
    shared = torch.arange(12.0)
    state = OrderedDict(
        matrix=shared.view(3, 4)[:, 1:3],
        transposed=shared.view(3, 4).t(),
        scalar=torch.tensor(5),
        half=torch.ones(3, dtype=torch.float16),
        brain=torch.ones(2, dtype=torch.bfloat16),
        flags=torch.tensor([True, False]),
        bytes=torch.tensor([1, 255], dtype=torch.uint8),
        parameter=torch.nn.Parameter(torch.rand(2, 2)),
        empty=torch.zeros(0, 4),
    )
    torch.save({"state_dict": state}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    file = open_torch_file(tmp_path / "a.pth")
    found = file.tensors(file.content["state_dict"])
    assert list(found) == list(state)
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_objects_become_inert_placeholders(tmp_path: Path, zipped: bool) -> None:
    with ForeignPackage("mmengine.logging.history_buffer", "HistoryBuffer") as made:
        value = made()
        value.log, value.method = [1.0, 2.0], made.mean
        torch.save({"hub": value}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    found = open_torch_file(tmp_path / "a.pth").content["hub"]
    assert isinstance(found, Foreign)
    assert found.name == "mmengine.logging.history_buffer.HistoryBuffer"
    assert found.state["log"] == [1.0, 2.0]
    assert found.state["method"].name.endswith("HistoryBuffer.mean")


def test_a_dict_subclass_of_the_original_keeps_its_entries() -> None:
    pickled = b"\x80\x02cmmcv.utils.config\nConfigDict\n)\x81(X\x04\x00\x00\x00typeX\x03\x00\x00\x00HTCu}b."
    assert PickleMachine().run(pickled).entries == {"type": "HTC"}


def _tensor_pickle(numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    buffer = io.BytesIO()

    class Storages(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", numel) if isinstance(value, range) else None

    Storages(buffer, 2).dump(
        {
            "state_dict": {
                "w": Calls(torch._utils._rebuild_tensor_v2, range(1), offset, size, stride, False, OrderedDict())
            }
        }
    )
    return buffer.getvalue()


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    file = open_torch_file(path)
    return file.tensors(file.content["state_dict"])


@pytest.mark.parametrize(
    ("numel", "size", "stride", "offset"),
    [
        (2**40, (2**40,), (1,), 0),  # storage larger than the file
        (2, (2**40,), (0,), 0),  # two values, repeated into a terabyte
        (2, (2**30, 2**30), (0, 0), 0),
        (2, (3,), (1,), 0),
        (2, (2,), (1,), 1),  # beyond the end
        (2, (2,), (-1,), 1),
        (2, (2,), (1, 1), 0),
        (3, (2,), (1,), 0),  # other than the bytes there are
        (2, (1,) * 100, (1,) * 100, 0),
    ],
)
def test_impossible_tensors_are_refused_without_allocating(
    tmp_path: Path, numel: int, size: Any, stride: Any, offset: int
) -> None:
    path = as_zip(tmp_path / "a.pth", _tensor_pickle(numel, size, stride, offset), {"0": bytes(8)})
    with pytest.raises(CheckpointError, match="damaged"):
        _tensors(path)


def test_a_possible_tensor_is_not_refused(tmp_path: Path) -> None:
    file = open_torch_file(
        as_zip(tmp_path / "a.pth", _tensor_pickle(2, (2,), (1,)), {"0": struct.pack("<2f", 1.5, -2)})
    )
    assert file.tensors(file.content["state_dict"])["w"].tolist() == [1.5, -2.0]


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    path = as_zip(
        tmp_path / "bomb.pth", _tensor_pickle(2**22, (2**22,), (1,)), {"0": bytes(2**24)}, zipfile.ZIP_DEFLATED
    )
    with pytest.raises(CheckpointError, match="compressed"):
        open_torch_file(path)


def test_hashing_nested_keys_cannot_overflow_the_stack() -> None:
    deep = b")" + b"\x85" * 100_000
    with pytest.raises(UnsafePickleError, match="key"):
        PickleMachine().run(b"\x80\x02}" + deep + b"Ns.")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n", "an image, not weights"),
        (b'{"a": 1}', "JSON"),
        (b"hello, this is no checkpoint", "not a checkpoint"),
        (pickle.dumps({"model": {"a": 1}}), "neither of torch.save nor of arrays"),
        (b"PK\x03\x04 and then nothing", "damaged or truncated"),
        (b"\x80\x02\x8a", "damaged or truncated"),
    ],
)
def test_other_files_are_named_with_a_remedy(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "some.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        open_torch_file(path)
    assert "some.pth" in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_errors_wherever_they_end(tmp_path: Path, zipped: bool, kept: float) -> None:
    path = tmp_path / "a.pth"
    torch.save(
        {"state_dict": {f"w{i}": torch.rand(50) for i in range(20)}}, path, _use_new_zipfile_serialization=zipped
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CheckpointError, match="truncated"):
        open_torch_file(path)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        open_torch_file(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="folder"):
        open_torch_file(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_changed_bytes_give_tensors_or_a_checkpoint_error_and_nothing_else(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "a.pth"
    torch.save(
        {"meta": {"CLASSES": ("a", "b")}, "state_dict": {"w": torch.rand(3, 2), "n": torch.tensor(1)}},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    whole = path.read_bytes()
    draw = random.Random(0)
    refused = 0
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 8])):
            changed[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            file = open_torch_file(path)
            state = file.content.get("state_dict") if isinstance(file.content, dict) else None
            if isinstance(state, dict):
                file.tensors({name: value for name, value in state.items() if isinstance(value, TensorReference)})
        except CheckpointError:
            refused += 1
    assert refused > 20
