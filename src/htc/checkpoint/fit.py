"""Match weights (under our names) with a configuration: every tensor is used, dropped for a reason, or an error.

`KeyReport` records what was done with each tensor between the file and the state dict.
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
    """What was done with each tensor. Names of tensors in the file are the file's, all others are ours. A file that
    fits has no missing, unexpected or mismatched tensors.
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
    """One entry per tensor, with both shapes."""
    notes: tuple[str, ...] = ()
    """Further information about the file for the user."""

    @property
    def fits(self) -> bool:
        """Whether no tensor is missing, unexpected or of another shape."""
        return not (self.missing or self.unexpected or self.mismatched)

    def to_json(self) -> dict[str, Any]:
        """Return the report as a dictionary for `--json`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return a summary as text: counts, then the changed tensors with reasons, then notes."""
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
                    "use the preset or the configuration that they belong to",
                ]
            )
        )


def _some(names: tuple[str, ...] | list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Map names to the shapes of tensors or tensor references."""
    return {name: tuple(value.shape) for name, value in state.items()}


_FLOW_OFF = "mask flow is disabled (cascade.mask_flow)"
_SEMANTIC_OFF = "the semantic branch is disabled (semantic)"
_COUNTER = "a batch counter that the model does not use"
OF_BACKBONE = "backbone."
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LoadedWeights:
    """A configuration and a state dict for its `Detector`; `report` describes what was done with every tensor of
    `source`.
    """

    config: Config
    state_dict: dict[str, Tensor]
    report: KeyReport
    source: Path


def expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Map names to the shapes in the state dict of a `Detector` with this configuration, without allocating it. A
    user's own backbone is left out, since only its module has its tensors.
    """
    with torch.device("meta"):
        module = stand_in(config.backbone) if isinstance(config.backbone, CustomBackbone) else None
        return shapes_of(Detector(config, module).state_dict())


def load_weights(detector: Detector, weights: LoadedWeights) -> None:
    """Copy loaded weights into a detector; raises a `CheckpointError` with the names of tensors that do not fit.

    Only a user's own backbone can still differ: `fit_weights` has compared everything else.
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
    """Build the complete state dict for a `Detector(config)`.

    `explicit`: dotted fields that the user set. If such a field disables a part of the model, the weights of that part
    are dropped and reported; otherwise they are a contradiction. `report`: earlier changes (renamed, reordered,
    dropped). Raises a `CheckpointError` with the contradicting fields, or the missing, unexpected and misshapen
    tensors.
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
        remedy = "use the preset that the weights belong to, or remove these fields"
        raise CheckpointError(
            "\n  ".join([f"{source}: the weights contradict the configuration ({config.preset})", *lines, remedy])
        )
    expected = expected_shapes(config)
    if isinstance(config.backbone, CustomBackbone):  # `load_weights` compares them with the module
        expected |= shapes_of({name: tensor for name, tensor in weights.items() if name.startswith(OF_BACKBONE)})
    unused |= {name: _COUNTER for name in weights if name.endswith(".num_batches_tracked") and name not in expected}
    kept = {name: tensor for name, tensor in weights.items() if name not in unused}
    filled = {
        name: torch.zeros((), dtype=torch.long)
        for name in expected
        if name.endswith(".num_batches_tracked") and name not in kept
    }
    theirs = {ours: original for original, ours in report.renamed}
    shapes = shapes_of(kept)
    whole = [
        f"{name} (file {tensor.dtype}, model floating point)"
        for name, tensor in kept.items()
        if not _plausible_type(name, tensor)
    ]
    wrong = [
        f"{name} (file {shapes[name]}, model {shape})"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    result = replace(
        report,
        used=tuple(name for name in kept if name in expected),
        dropped=(*report.dropped, *((theirs.get(name, name), reason) for name, reason in unused.items())),
        filled=(*report.filled, *((name, "a batch counter, which old files do not have") for name in filled)),
        missing=tuple(name for name in expected if name not in kept and name not in filled),
        unexpected=tuple(theirs.get(name, name) for name in kept if name not in expected),
        mismatched=(*wrong, *whole),
    )
    result.require_fit(str(source))
    require_finite(str(source), kept, theirs)
    state = {**kept, **filled}
    return LoadedWeights(config, {name: state[name] for name in expected}, result, source)


def require_finite(source: str, weights: Mapping[str, Tensor], theirs: Mapping[str, str]) -> None:
    """Raise `CheckpointError` with the names in the file of all tensors that contain NaN or infinity; `theirs` maps the
    names of `weights` to them where they differ.
    """
    # A sum is finite unless a value is not, or it overflows; it takes a fifth of the time and no memory.
    bad = [
        theirs.get(name, name)
        for name, tensor in weights.items()
        if not tensor.sum().isfinite() and not tensor.isfinite().all()
    ]
    if bad:
        raise CheckpointError(
            f"{source}: {len(bad)} tensors contain NaN or infinite values: {_some(bad)}. A training that diverged "
            f"leaves such weights: use an earlier checkpoint, or train again with a lower learning rate"
        )


def _plausible_type(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is floating point or a batch counter: quantized weights would load but be wrong."""
    return tensor.is_floating_point() or name.endswith(".num_batches_tracked")


def _unused(weights: Mapping[str, Tensor], config: Config, explicit: frozenset[str]) -> dict[str, str]:
    """Return the tensors of parts that the user disabled, with the reason."""
    unused: dict[str, str] = {}
    if "cascade.mask_flow" in explicit and not config.cascade.mask_flow:
        unused |= {name: _FLOW_OFF for name in weights if name.startswith("roi.mask_flows.")}
    if "semantic" in explicit and config.semantic is None:
        unused |= {name: _SEMANTIC_OFF for name in weights if name.startswith("semantic.")}
    return unused
