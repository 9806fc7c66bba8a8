"""Fit weights under our names to a configuration: every tensor is used, dropped for a reason, or an error.

`KeyReport` records what happened to each tensor on the way from the file to the state dict.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from htc.checkpoint.structure import contradictions, read_structure
from htc.config import Config, CustomBackbone
from htc.errors import CheckpointError
from htc.model.backbones.custom import stand_in
from htc.model.detector import Detector

_SHOWN = 8


@dataclass(frozen=True)
class KeyReport:
    """Names are the file's where a file name is meant, ours otherwise. A usable file has no missing, unexpected or
    mismatched.
    """

    used: tuple[str, ...] = ()
    """Our names that got a tensor from the file."""
    renamed: tuple[tuple[str, str], ...] = ()
    """(file's name, our name)."""
    reordered: tuple[tuple[str, str], ...] = ()
    """(our name, what was done to its rows)."""
    dropped: tuple[tuple[str, str], ...] = ()
    """(file's name, reason)."""
    filled: tuple[tuple[str, str], ...] = ()
    """(our name, reason): not in the file, but known without it."""
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    """One sentence each, with both shapes."""
    notes: tuple[str, ...] = ()
    """What else the user should know about this file."""

    @property
    def fits(self) -> bool:
        """Whether every tensor found its place and none is missing."""
        return not (self.missing or self.unexpected or self.mismatched)

    def to_json(self) -> dict[str, Any]:
        """Plain lists, for `--json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """A summary for people: counts, then what was dropped and why."""
        counts = {
            "used": len(self.used),
            "renamed": len(self.renamed),
            "reordered": len(self.reordered),
            "dropped": len(self.dropped),
            "filled": len(self.filled),
            "missing": len(self.missing),
            "unexpected": len(self.unexpected),
        }
        reasons: dict[str, list[str]] = {}
        for name, reason in (*self.dropped, *self.filled, *self.reordered):
            reasons.setdefault(reason, []).append(name)
        details = [f"{reason}: {_some(names)}" for reason, names in reasons.items()]
        return [", ".join(f"{count} {what}" for what, count in counts.items()), *details, *self.notes]

    def require_fit(self, source: str) -> None:
        """Raise `CheckpointError` naming the tensors if anything is missing, unexpected or of another shape."""
        if self.fits:
            return
        faults = {"missing": self.missing, "unexpected": self.unexpected, "of another shape": self.mismatched}
        lines = [f"{len(names)} tensors {what}: {_some(names)}" for what, names in faults.items() if names]
        raise CheckpointError(
            "\n  ".join(
                [
                    f"{source}: the weights do not fit the model",
                    *lines,
                    "use the preset or configuration they belong to",
                ]
            )
        )


def _some(names: tuple[str, ...] | list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of tensors or tensor references."""
    return {name: tuple(value.shape) for name, value in state.items()}


_FLOW_OFF = "mask flow is off (cascade.mask_flow)"
_SEMANTIC_OFF = "the semantic branch is off (semantic)"
_COUNTER = "a batch counter the model does not use"
OF_BACKBONE = "backbone."
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LoadedWeights:
    """A configuration and the state dict of a `Detector` built from it; `report` says what became of every tensor of
    `source`.
    """

    config: Config
    state_dict: dict[str, Tensor]
    report: KeyReport
    source: Path


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of everything a `Detector` of this configuration holds, without allocating it; but for a user's own
    backbone, whose tensors only the module knows.
    """
    with torch.device("meta"):
        module = stand_in(config.backbone) if isinstance(config.backbone, CustomBackbone) else None
        return shapes_of(Detector(config, module).state_dict())


def load_weights(detector: Detector, weights: LoadedWeights) -> None:
    """Copy loaded weights into a detector; raises `CheckpointError` if they do not fit, naming the tensors.

    Only a user's own backbone may still misfit: `fit_weights` has compared everything else.
    """
    own, theirs = shapes_of(detector.state_dict()), shapes_of(weights.state_dict)
    report = replace(
        weights.report,
        missing=tuple(name for name in own if name not in theirs),
        unexpected=tuple(name for name in theirs if name not in own),
        mismatched=tuple(
            f"{name} (file {theirs[name]}, model {shape})"
            for name, shape in own.items()
            if theirs.get(name, shape) != shape
        ),
    )
    report.require_fit(str(weights.source))
    detector.load_state_dict(weights.state_dict)


def fit_weights(
    weights: Mapping[str, Tensor],
    config: Config,
    source: Path,
    explicit: frozenset[str] = _NONE,
    report: KeyReport | None = None,
) -> LoadedWeights:
    """The state dict for a `Detector(config)`, complete.

    `explicit`: dotted fields that somebody set on purpose: weights that such a switch leaves unused are dropped and
    reported; without it the same is a contradiction. `report`: what happened to the tensors before (renamed, reordered,
    dropped). Raises `CheckpointError` that names contradicting fields, or missing, unexpected and misshapen tensors.
    """
    report = report or KeyReport()
    try:
        structure = read_structure(shapes_of(weights))
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    unused = _unused(weights, config, explicit)
    ignored = {"cascade.mask_flow" if reason == _FLOW_OFF else "semantic" for reason in unused.values()}
    lines = contradictions(structure, config, frozenset(ignored))
    if lines:
        remedy = "use the preset the weights belong to, or leave these fields out"
        raise CheckpointError(
            "\n  ".join([f"{source}: the weights contradict the configuration ({config.preset})", *lines, remedy])
        )
    expected = expected_shapes(config)
    if isinstance(config.backbone, CustomBackbone):  # `load_weights` compares them with the module
        expected |= shapes_of({name: tensor for name, tensor in weights.items() if name.startswith(OF_BACKBONE)})
    unused |= {name: _COUNTER for name in weights if name.endswith(".num_batches_tracked") and name not in expected}
    found = {name: tensor for name, tensor in weights.items() if name not in unused}
    filled = {
        name: torch.zeros((), dtype=torch.long)
        for name in expected
        if name.endswith(".num_batches_tracked") and name not in found
    }
    theirs = {ours: original for original, ours in report.renamed}
    shapes = shapes_of(found)
    whole = [
        f"{name} (file {tensor.dtype}, model floating point)"
        for name, tensor in found.items()
        if not _plausible_type(name, tensor)
    ]
    wrong = [
        f"{name} (file {shapes[name]}, model {shape})"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    result = replace(
        report,
        used=tuple(name for name in found if name in expected),
        dropped=(*report.dropped, *((theirs.get(name, name), reason) for name, reason in unused.items())),
        filled=(*report.filled, *((name, "a batch counter that old files lack") for name in filled)),
        missing=tuple(name for name in expected if name not in found and name not in filled),
        unexpected=tuple(theirs.get(name, name) for name in found if name not in expected),
        mismatched=(*wrong, *whole),
    )
    result.require_fit(str(source))
    state = {**found, **filled}
    return LoadedWeights(config, {name: state[name] for name in expected}, result, source)


def _plausible_type(name: str, tensor: Tensor) -> bool:
    """Whole numbers are counters; quantised weights would load and mean nothing."""
    return tensor.is_floating_point() or name.endswith(".num_batches_tracked")


def _unused(weights: Mapping[str, Tensor], config: Config, explicit: frozenset[str]) -> dict[str, str]:
    """Tensors that a switch turned off on purpose leaves without a use."""
    unused: dict[str, str] = {}
    if "cascade.mask_flow" in explicit and not config.cascade.mask_flow:
        unused |= {name: _FLOW_OFF for name in weights if name.startswith("roi.mask_flows.")}
    if "semantic" in explicit and config.semantic is None:
        unused |= {name: _SEMANTIC_OFF for name in weights if name.startswith("semantic.")}
    return unused
