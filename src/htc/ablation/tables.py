"""The ablations of the paper's section 4.4 (arXiv 1901.07518) as rows of whole configurations, made from one base.

Every row has the same score threshold (0.001) and matching rule (low-quality matches on), so that rows differ only in
what their names state. In mmdetection's configurations these two differ between the baselines and HTC.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from htc.config import ASPP, GCN, Backbone, Config, FineMask, Fusion, GaussianSoftNMS, GuidedRPN, ResNet
from htc.errors import ConfigError
from htc.evaluation.coco import IouType
from htc.presets.table7 import SENET154, deformable, multi_scale, synchronised

ABLATION_SCORE_THRESHOLD = 0.001
NUM_STAGES = 3
MODULES = 8
"""Number of the table of modules, which is not in the paper. Some of the modules improve outlines."""
BETAS = (0.5, 1.0, 2.0, 3.0)
TEST_SCALES = "0.75,1,1.25,1.5,1.75:flip"
"""The paper's short edges from 600 to 1400, as factors of 800."""
SHALLOWEST = 50
FUSIONS: tuple[Fusion, ...] = ("none", "box", "mask", "both")


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    name: str
    config: Config
    published: tuple[float | None, float | None]
    """(box AP, mask AP) in the paper, COCO val2017, per cent; None if the table does not have it."""
    against: int | None
    """Index of the row it is compared with."""
    mask_stages: tuple[int, ...] | None = None
    """Mask stages that are averaged at test time; None: all."""
    augment: str | None = None
    """Views for test-time augmentation, in the syntax of `--views`."""


@dataclass(frozen=True)
class AblationTable:
    """An ablation table."""

    number: int
    title: str
    rows: tuple[Row, ...]
    compared: tuple[IouType, ...] = ("segm",)
    """Kinds of AP by which rows are compared: masks and, for modules that improve outlines, boundaries."""

    def only(self, parts: Sequence[str]) -> "AblationTable":
        """Select the rows with one of these `parts` in their names (ignoring case), and the rows they are compared
        with.

        Raises `ConfigError` if no row matches.
        """
        selected = {
            index for index, row in enumerate(self.rows) if any(part.lower() in row.name.lower() for part in parts)
        }
        if not selected:
            raise ConfigError(
                f"--rows {' '.join(parts)}: table {self.number} has no such row; its rows: "
                f"{', '.join(row.name for row in self.rows)}"
            )
        kept = sorted(
            selected
            | {row.against for index, row in enumerate(self.rows) if index in selected and row.against is not None}
        )
        rows = (self.rows[index] for index in kept)
        return replace(
            self,
            rows=tuple(replace(row, against=kept.index(row.against) if row.against in kept else None) for row in rows),
        )


def ablation_table(number: int, base: Config) -> AblationTable:
    """Build table 1 (the three models), 2 to 7, or 8 (further modules) for `base`, a Hybrid Task Cascade.

    Raises `ConfigError` if there is no such table or if `base` does not have three stages and a semantic branch; for
    Table 7 also if its backbone does not support deformable convolution.
    """
    if number not in TABLES:
        raise ConfigError(f"--table {number}: choose one of the tables {', '.join(map(str, TABLES))}")
    if base.semantic is None or base.cascade.num_stages != NUM_STAGES:
        raise ConfigError(
            f"{base.preset} cannot be ablated: an ablation needs a model with three stages and a semantic branch, such "
            f"as htc_r50_fpn_20e_paper"
        )
    title, rows = TABLES[number]
    return AblationTable(number, title, rows(base), ("segm", "boundary") if number == MODULES else ("segm",))


def arranged(
    base: Config,
    *,
    stages: int | None = None,
    interleaved: bool,
    mask_flow: bool,
    fusion: Fusion,
    semantic: bool = True,
    beta: float | None = None,
) -> Config:
    """Return `base` with the paper's switches, the common score threshold and matching rule. `semantic` False removes
    the semantic branch.

    One stage is Mask R-CNN, whose boxes are class-specific.
    """
    config = base.model_dump()
    cascade: dict[str, Any] = config["cascade"]
    cascade |= {
        "interleaved": interleaved,
        "mask_flow": mask_flow,
        "semantic_fusion": fusion,
        "low_quality_matches": True,
    }
    config["inference"] |= {"score_threshold": ABLATION_SCORE_THRESHOLD}
    if stages is not None:
        cascade |= {"num_stages": stages, "class_agnostic_boxes": stages > 1}
        cascade |= {name: cascade[name][:stages] for name in ("delta_stds", "ious", "loss_weights")}
    if not semantic:
        config["semantic"] = None
    elif beta is not None:
        config["semantic"] |= {"loss_weight": beta}
    return Config.model_validate(config)


def _models(base: Config) -> tuple[Row, ...]:
    plain = {"interleaved": False, "mask_flow": False, "fusion": "none", "semantic": False}
    rows = (
        ("Mask R-CNN", arranged(base, stages=1, **plain)),
        ("Cascade Mask R-CNN", arranged(base, **plain)),
        ("Hybrid Task Cascade", arranged(base, interleaved=True, mask_flow=True, fusion="both")),
    )
    return tuple(
        Row(name, config, (None, None), against=0 if index else None) for index, (name, config) in enumerate(rows)
    )


def _components(base: Config) -> tuple[Row, ...]:
    rows = (
        (
            "Cascade Mask R-CNN (parallel)",
            arranged(base, interleaved=False, mask_flow=False, fusion="none", semantic=False),
            (42.5, 36.5),
        ),
        (
            "+ interleaved",
            arranged(base, interleaved=True, mask_flow=False, fusion="none", semantic=False),
            (42.5, 36.7),
        ),
        (
            "+ mask information flow",
            arranged(base, interleaved=True, mask_flow=True, fusion="none", semantic=False),
            (42.5, 37.4),
        ),
        ("+ semantic branch", arranged(base, interleaved=True, mask_flow=True, fusion="both"), (43.2, 38.0)),
    )
    return tuple(
        Row(name, config, published, against=index - 1 if index else None)
        for index, (name, config, published) in enumerate(rows)
    )


def _interleaved(base: Config) -> tuple[Row, ...]:
    published = {(1, False): 35.1, (1, True): 35.6, (NUM_STAGES, False): 36.5, (NUM_STAGES, True): 36.7}
    rows: list[Row] = []
    for (stages, interleaved), ap in published.items():
        name = (
            f"{'Mask R-CNN' if stages == 1 else 'Cascade Mask R-CNN'}, {'interleaved' if interleaved else 'parallel'}"
        )
        config = arranged(base, stages=stages, interleaved=interleaved, mask_flow=False, fusion="none", semantic=False)
        rows.append(Row(name, config, (None, ap), against=len(rows) - 1 if interleaved else None))
    return tuple(rows)


def _flow(base: Config) -> tuple[Row, ...]:
    subsets = {**{str(stage): (stage,) for stage in range(1, NUM_STAGES + 1)}, f"1-{NUM_STAGES}": None}
    published = {False: (35.5, 36.3, 35.9, 36.7), True: (35.5, 37.0, 36.8, 37.4)}
    rows: list[Row] = []
    for flow in (False, True):
        config = arranged(base, interleaved=True, mask_flow=flow, fusion="none", semantic=False)
        for (text, stages), ap in zip(subsets.items(), published[flow], strict=True):
            against = len(rows) - len(subsets) if flow else None
            rows.append(
                Row(f"{'with' if flow else 'without'} mask flow, stage {text}", config, (None, ap), against, stages)
            )
    return tuple(rows)


def _fusion(base: Config) -> tuple[Row, ...]:
    cascade = arranged(base, interleaved=False, mask_flow=False, fusion="none", semantic=False)
    rows = [Row("no semantic branch", cascade, (None, 36.5), against=None)]
    for fusion, ap in zip(FUSIONS, (37.1, 37.3, 37.4, 37.5), strict=True):
        name = {"none": "branch alone, no fusion", "both": "fused into box and mask"}.get(
            fusion, f"fused into {fusion}"
        )
        rows.append(Row(name, arranged(base, interleaved=False, mask_flow=False, fusion=fusion), (None, ap), against=0))
    return tuple(rows)


def _beta(base: Config) -> tuple[Row, ...]:
    return tuple(
        Row(
            f"beta {beta:g}",
            arranged(base, interleaved=True, mask_flow=True, fusion="both", beta=beta),
            (None, ap),
            against=None if beta == 1 else 1,
        )
        for beta, ap in zip(BETAS, (37.9, 38.0, 37.9, 37.8), strict=True)
    )


def _extensions(base: Config) -> tuple[Row, ...]:
    """Return the extensions, each added to the row above. For the ensemble, the paper's last row, use `htc evaluate`
    with several models.
    """
    if not isinstance(base.backbone, ResNet) or base.backbone.depth < SHALLOWEST:
        raise ConfigError(
            f"--table 7 starts with deformable convolution in a ResNet of depth 50 or more; {base.preset} has "
            f"{_named(base.backbone)}"
        )
    plain = arranged(base, interleaved=True, mask_flow=True, fusion="both")
    with_deformable = deformable(plain)
    with_norms = synchronised(with_deformable)
    with_scales = multi_scale(with_norms)
    larger = with_scales.replace(backbone=SENET154.replace(pretrained=bool(base.backbone.pretrained)))
    shared = base.rpn.model_dump(
        include={
            "anchor_scale",
            "candidates_per_level",
            "proposals",
            "training_candidates_per_level",
            "training_proposals",
        }
    )
    guided = larger.replace(rpn=GuidedRPN(**shared))
    rows = (
        ("Hybrid Task Cascade", plain, 38.4, None),
        ("+ deformable convolution", with_deformable, 39.5, None),
        ("+ SyncBN", with_norms, 40.7, None),
        ("+ multi-scale training", with_scales, 42.5, None),
        ("+ SENet-154", larger, 44.3, None),
        ("+ GA-RPN", guided, 45.3, None),
        ("+ multi-scale test", guided, 47.4, TEST_SCALES),
    )
    return tuple(
        Row(name, config, (None, ap), index - 1 if index else None, augment=augment)
        for index, (name, config, ap, augment) in enumerate(rows)
    )


def _named(backbone: Backbone) -> str:
    return f"depth {backbone.depth}" if isinstance(backbone, ResNet) else backbone.kind


def _modules(base: Config) -> tuple[Row, ...]:
    """Return the modules of section 4.6 and others, each added alone to the full model."""
    plain = arranged(base, interleaved=True, mask_flow=True, fusion="both")
    changes: dict[str, dict[str, Any]] = {
        "Hybrid Task Cascade": {},
        "+ PAFPN": {"neck": {"kind": "pafpn"}},
        "+ ASPP": {"semantic": {"context": ASPP()}},
        "+ GCN": {"semantic": {"context": GCN()}},
        "+ precise RoI pooling": {"cascade": {"pooling": "precise"}},
        "+ Soft-NMS": {"inference": {"soft_nms": GaussianSoftNMS(min_score=ABLATION_SCORE_THRESHOLD)}},
        "+ adaptive feature pooling": {"cascade": {"pooled_levels": "all"}},
        "+ finer masks": {"cascade": {"mask_head": FineMask()}},
    }
    if isinstance(base.backbone, ResNet):  # DetectoRS' parts are made of residual blocks
        switchable = {
            "switchable": "plain",
            "switchable_stages": (3, 4, 5),
            "deformable": "none",
            "deformable_stages": (),
        }
        changes |= {
            "+ recursive feature pyramid": {"neck": {"kind": "rfp"}},
            "+ switchable atrous convolution": {"backbone": switchable},
        }
    rows: list[Row] = []
    for name, sections in changes.items():
        values = plain.model_dump()
        for section, change in sections.items():
            values[section] = {**values[section], **change}
        rows.append(Row(name, Config.model_validate(values), (None, None), against=0 if rows else None))
    return tuple(rows)


TABLES: dict[int, tuple[str, Callable[[Config], tuple[Row, ...]]]] = {
    1: ("Mask R-CNN, Cascade Mask R-CNN and Hybrid Task Cascade", _models),
    2: ("Effects of each component", _components),
    3: ("Interleaved execution", _interleaved),
    4: ("Mask information flow, masks by stage", _flow),
    5: ("Where the semantic feature is fused, on Cascade Mask R-CNN", _fusion),
    6: ("Weight of the semantic loss", _beta),
    7: ("Extensions, each added to the previous one; the paper's AP is on COCO test-dev", _extensions),
    MODULES: (
        "Modules of section 4.6, of PANet and of DetectoRS, and finer masks, each alone on the full model",
        _modules,
    ),
}
