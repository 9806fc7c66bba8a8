"""Mutated weights files: nothing in them runs, nothing crashes, and every refusal is one of our errors."""

import json
import pickle
import random
import re
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from htc.checkpoint.load import load_model
from htc.checkpoint.native import save_pretrained
from htc.config import Config, ResNet
from htc.errors import HTCError
from stress_tests.harness import Case, Stress
from stress_tests.samples import mutated, random_state, tiny_config

FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "pty.spawn")
FORBIDDEN += ("pickle.find_class", "socket.connect", "shutil.rmtree", "os.remove", "ctypes.dlopen")
"""Audit events that no reading of weights may cause."""
MMDETECTION = (
    (r"^neck\.lateral\.", "neck.lateral_convs."),
    (r"^neck\.output\.", "neck.fpn_convs."),
    (r"^rpn\.conv\.", "rpn_head.rpn_conv."),
    (r"^rpn\.objectness\.", "rpn_head.rpn_cls."),
    (r"^rpn\.deltas\.", "rpn_head.rpn_reg."),
    (r"^roi\.box_heads\.(\d)\.fc\.", r"roi_head.bbox_head.\1.shared_fcs."),
    (r"^roi\.box_heads\.(\d)\.classify\.", r"roi_head.bbox_head.\1.fc_cls."),
    (r"^roi\.box_heads\.(\d)\.regress\.", r"roi_head.bbox_head.\1.fc_reg."),
    (r"^roi\.mask_heads\.(\d)\.logits\.", r"roi_head.mask_head.\1.conv_logits."),
    (r"^roi\.mask_heads\.(\d)\.", r"roi_head.mask_head.\1."),
    (r"^roi\.mask_flows\.0\.", "roi_head.mask_head.1.conv_res."),
    (r"^roi\.mask_flows\.1\.", "roi_head.mask_head.2.conv_res."),
    (r"^semantic\.", "roi_head.semantic_head."),
)
ATTACKS = (
    b"\x80\x02cos\nsystem\n(X\x0b\x00\x00\x00touch MARKERtR.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch MARKER\x85R.",
    b'cbuiltins\nexec\n(S\'open("MARKER", "w")\'\ntR.',
    b"\x80\x02csubprocess\nPopen\n(]X\x05\x00\x00\x00toucha]X\x06\x00\x00\x00MARKERatR.",
)
"""Pickles that create a file named MARKER where they are executed."""
MARKER = "MARKER"
_events: list[str] = []
_watched = threading.local()


def _watch(event: str, _arguments: tuple[Any, ...]) -> None:
    if getattr(_watched, "on", False) and event.startswith(FORBIDDEN):
        _events.append(event)


def prepare(shared: Path) -> Case:
    """Write one whole file of each format; the case mutates a copy."""
    sys.addaudithook(_watch)
    config = tiny_config().replace(backbone=ResNet(depth=18))
    state = random_state(config)
    sources = write_sources(shared, config, state)
    for source in sources:  # also imports everything, so that the cases import nothing
        load_model(source)
    contents = {source: {path.name: path.read_bytes() for path in files_of(source)} for source in sources}

    def case(_index: int, numbers: random.Random, folder: Path) -> str | None:
        source = numbers.choice(sources)
        target = folder / source.name
        target.mkdir() if source.is_dir() else None
        changing = numbers.choice(sorted(contents[source]))
        for name, content in contents[source].items():
            changed = hostile(content, numbers) if name == changing else content
            (target / name if source.is_dir() else target).write_bytes(changed)
        return outcome(target, folder)

    return case


def outcome(target: Path, folder: Path) -> str | None:
    """Load the file; return what is wrong with the way in which it fails or succeeds."""
    _events.clear()
    _watched.on = True
    try:
        load_model(target)
    except HTCError as error:
        if target.name not in str(error) or len(str(error)) > 4000:
            return f"{target.name}: the message does not name the file, or is too long: {str(error)[:500]}"
    finally:
        _watched.on = False
    if _events:
        return f"{target.name}: reading it caused {_events[0]}"
    if MARKER in {path.name for place in (folder, Path.cwd()) for path in place.iterdir()}:
        return f"{target.name}: code in it was executed"
    return None


def write_sources(folder: Path, config: Config, state: dict[str, Tensor]) -> list[Path]:
    """Write a folder of ours, and files of safetensors, torch (zip, old), mmdetection, and pickled arrays."""
    theirs = OrderedDict(in_mmdetection(state))
    text = "model = dict(type='HybridTaskCascade', backbone=dict(depth=18))"
    meta = {"mmdet_version": "2.0.0", "CLASSES": config.classes, "config": text, "epoch": 12}
    save_pretrained(state, config, folder / "native")
    save_file(state, folder / "bare.safetensors")
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, folder / "plain.pth")
    torch.save({"meta": meta, "state_dict": theirs}, folder / "zoo.pth")
    torch.save({"meta": meta, "state_dict": theirs}, folder / "old.pth", _use_new_zipfile_serialization=False)
    arrays = {name: tensor.numpy() for name, tensor in theirs.items()}
    (folder / "arrays.pkl").write_bytes(pickle.dumps({"state_dict": arrays}, protocol=4))
    return sorted(path for path in folder.iterdir())


def in_mmdetection(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under mmdetection's names (in our order of rows, which no test here compares)."""
    renamed = {}
    for name, tensor in state.items():
        theirs = next((re.sub(pattern, new, name) for pattern, new in MMDETECTION if re.match(pattern, name)), name)
        theirs = theirs.replace("semantic_head.lateral.", "semantic_head.lateral_convs.")
        theirs = theirs.replace("semantic_head.logits.", "semantic_head.conv_logits.")
        theirs = theirs.replace("semantic_head.embedding.", "semantic_head.conv_embedding.")
        renamed[theirs if theirs.startswith("backbone.") else theirs.replace(".norm.", ".gn.")] = tensor
    return renamed


def files_of(source: Path) -> list[Path]:
    """Return the file, or the files of the folder."""
    return sorted(source.iterdir()) if source.is_dir() else [source]


def hostile(content: bytes, numbers: random.Random) -> bytes:
    """Return the file with random changes, with a pickle that would execute code, or with a damaged structure."""
    attack = numbers.choice(ATTACKS).replace(b"MARKER", MARKER.encode())
    match numbers.randrange(8):
        case 0:
            return attack
        case 1:  # in place of the pickle in the file, whose protocol byte is the first
            start = content.find(b"\x80\x02") if b"\x80\x02" in content else content.find(b"\x80\x04")
            return content[: max(start, 0)] + attack + content[max(start, 0) + len(attack) :]
        case 2:
            start = numbers.randrange(len(content))
            return content[:start] + attack[2:] + content[start:]
        case 3:
            return changed_header(content, numbers)
        case _:
            return mutated(content, numbers)


def changed_header(content: bytes, numbers: random.Random) -> bytes:
    """Change a value in the JSON header of a safetensors file, or in a JSON file; else change bytes."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length] if 2 <= length <= len(content) - 8 else content
    try:
        values = json.loads(header)
    except ValueError:
        return mutated(content, numbers)
    junk = (None, -1, 0, 2**70, 1e308, "", "x" * 5000, [], {}, [[[]]], True, "\x00", "../../etc")
    inside = values
    while True:
        key = numbers.choice(sorted(inside)) if isinstance(inside, dict) else numbers.randrange(len(inside))
        if isinstance(inside[key], dict | list) and inside[key] and numbers.random() < 0.8:
            inside = inside[key]
            continue
        inside[key] = numbers.choice(junk)
        break
    changed = json.dumps(values).encode()
    return changed if header is content else len(changed).to_bytes(8, "little") + changed + content[8 + length :]


STRESS = Stress(
    "checkpoints", "mutated weights files: no code runs, no crash, one of our errors", 10_000, prepare, at_least=20
)
