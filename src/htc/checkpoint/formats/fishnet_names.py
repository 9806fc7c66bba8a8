"""The names of the authors' FishNet weights (github.com/kevin-ssy/FishNet) and ours."""

import re
from collections.abc import Mapping

from torch import Tensor

_STEM = {1: (0, 1), 2: (3, 4), 3: (6, 7)}
"""Their stem convolution -> places of ours and of its norm."""
_NORM = re.compile(r"\.bn([123])\.")
_BODY = re.compile(r"fish\.fish\.(\d)\.(\d)\.(.+)")


def our_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names; those already so stay, the classifier's are left out."""
    named = {(_ours(name) if name.startswith(("fish.", "conv")) else name): tensor for name, tensor in weights.items()}
    return {name: tensor for name, tensor in named.items() if name is not None}


def _ours(name: str) -> str | None:
    stem = re.fullmatch(r"conv([123])\.([01])\.(\w+)", name)
    if stem:
        return f"stem.{_STEM[int(stem[1])][int(stem[2])]}.{stem[3]}"
    found = _BODY.fullmatch(_NORM.sub(r".norm\1.", name))
    if found is None:
        return None
    stage, part, rest = int(found[1]), int(found[2]), found[3]
    if stage < 3:
        return f"tail.{stage}.{rest}"
    if stage == 3:
        return {
            0: f"neck.widen.{rest}",
            1: f"neck.widen.5.{rest}",
            2: f"neck.blocks.{rest}",
            3: f"neck.attention.{rest.removeprefix('0.')}",
        }[part]
    if part > 1:
        return None
    if part == 1:
        return f"transfers.{stage - 4}.{rest}"
    return f"body.{stage - 4}.{rest}" if stage < 7 else f"head.{stage - 7}.{rest}"
