"""The rows of the paper's tables: what differs between them, and that nothing else does."""

from itertools import pairwise

import pytest

from htc.ablation.run import config_digest
from htc.ablation.tables import ablation_table
from htc.config import PAFPN, Augmentation, Cascade, ScaleJitter, Timm
from htc.errors import ConfigError
from htc.presets import preset
from training.tiny import tiny

BASE = preset("htc_r50_fpn_20e_coco")


def switches(config):
    cascade, beta = config.cascade, None if config.semantic is None else config.semantic.loss_weight
    return cascade.num_stages, cascade.interleaved, cascade.mask_flow, cascade.semantic_fusion, beta


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, [(1, False, False, "none", None), (3, False, False, "none", None), (3, True, True, "both", 0.2)]),
        (
            2,
            [
                (3, False, False, "none", None),
                (3, True, False, "none", None),
                (3, True, True, "none", None),
                (3, True, True, "both", 0.2),
            ],
        ),
        (
            3,
            [
                (1, False, False, "none", None),
                (1, True, False, "none", None),
                (3, False, False, "none", None),
                (3, True, False, "none", None),
            ],
        ),
        (4, [(3, True, False, "none", None)] * 4 + [(3, True, True, "none", None)] * 4),
        (
            5,
            [
                (3, False, False, "none", None),
                *((3, False, False, fusion, 0.2) for fusion in ("none", "box", "mask", "both")),
            ],
        ),
        (6, [(3, True, True, "both", beta) for beta in (0.5, 1.0, 2.0, 3.0)]),
    ],
)
def test_rows_have_the_papers_switches(number, expected):
    assert [switches(row.config) for row in ablation_table(number, BASE).rows] == expected


@pytest.mark.parametrize("number", range(1, 7))
def test_rows_share_one_threshold_one_matching_rule_and_all_else(number):
    for row in ablation_table(number, BASE).rows:
        assert row.config.inference.score_threshold == 0.001
        assert row.config.cascade.low_quality_matches
        for section in ("backbone", "neck", "rpn", "input", "training", "classes"):
            assert getattr(row.config, section) == getattr(BASE, section)


def test_table_4_looks_at_single_stages_and_all():
    rows = ablation_table(4, BASE).rows
    assert [row.mask_stages for row in rows] == [(1,), (2,), (3,), None] * 2
    assert [row.against for row in rows] == [None] * 4 + [0, 1, 2, 3]


def test_the_papers_numbers():
    published = {number: [row.published[1] for row in ablation_table(number, BASE).rows] for number in range(1, 7)}
    assert published[2] == [36.5, 36.7, 37.4, 38.0]
    assert published[3] == [35.1, 35.6, 36.5, 36.7]
    assert published[4] == [35.5, 36.3, 35.9, 36.7, 35.5, 37.0, 36.8, 37.4]
    assert published[5] == [36.5, 37.1, 37.3, 37.4, 37.5]
    assert published[6] == [37.9, 38.0, 37.9, 37.8]


def test_rows_that_learn_the_same_share_their_training():
    two, four = ablation_table(2, BASE).rows, ablation_table(4, BASE).rows
    assert config_digest(two[1].config) == config_digest(four[0].config) == config_digest(four[3].config)
    assert config_digest(two[2].config) == config_digest(four[7].config)
    assert len({config_digest(row.config) for row in two}) == 4


@pytest.mark.parametrize(
    "base",
    [
        preset("htc_without_semantic_r50_fpn_1x_coco"),
        preset("mask_rcnn_r50_fpn_1x_coco"),
        tiny().replace(
            cascade=Cascade(num_stages=2, delta_stds=((1.0,) * 4,) * 2, ious=(0.5, 0.6), loss_weights=(1.0, 1.0))
        ),
    ],
)
def test_a_base_that_cannot_be_taken_apart_is_refused(base):
    with pytest.raises(ConfigError, match="three stages and a semantic branch"):
        ablation_table(2, base)


def test_an_unknown_table_is_refused():
    with pytest.raises(ConfigError, match=r"tables 1, 2, 3, 4, 5, 6, 7, 8"):
        ablation_table(9, BASE)


def test_table_7_adds_one_extension_to_the_row_above():
    rows = ablation_table(7, preset("htc_r50_fpn_20e_paper")).rows
    assert [row.published[1] for row in rows] == [38.4, 39.5, 40.7, 42.5, 44.3, 45.3, 47.4]
    assert [row.against for row in rows] == [None, 0, 1, 2, 3, 4, 5]
    pairs = pairwise([row.config.model_dump() for row in rows])
    differ = [{name for name in after if after[name] != before[name]} for before, after in pairs]
    assert differ == [
        {"backbone"},
        {"backbone", "neck", "semantic", "cascade"},
        {"training"},
        {"backbone"},
        {"rpn"},
        set(),
    ]
    assert [row.augment for row in rows] == [None] * 6 + ["0.75,1,1.25,1.5,1.75:flip"]


def test_table_7_reaches_the_presets_of_that_table():
    """But for ImageNet weights, from which the paper's base preset does not say to start."""
    rows = ablation_table(7, preset("htc_r50_fpn_20e_paper")).rows
    names = (
        "htc_r50_dcn_table7",
        "htc_r50_dcn_syncbn_table7",
        "htc_r50_dcn_syncbn_mstrain_table7",
        "htc_senet154_table7",
    )
    for row, name in zip(rows[1:], names, strict=False):
        ours, theirs = row.config.model_dump(exclude={"preset"}), preset(name).model_dump(exclude={"preset"})
        ours["backbone"]["pretrained"] = theirs["backbone"]["pretrained"]
        assert ours == theirs


@pytest.mark.parametrize("other", [{"jitter": ScaleJitter()}, {"short_edge_choices": (640, 800)}])
def test_multi_scale_training_replaces_another_way_to_resize(other):
    base = preset("htc_r50_fpn_20e_paper")
    training = base.training.replace(augmentation=Augmentation(vertical_flip=0.25, **other))
    rows = ablation_table(7, base.replace(training=training)).rows
    assert rows[3].config.training.augmentation == Augmentation(
        vertical_flip=0.25, short_edges=(400, 1400), long_edge=1600
    )


@pytest.mark.parametrize("name", ["htc_r18_small", "htcpp_swin_b"])
def test_table_7_needs_a_place_for_deformable_convolution(name):
    with pytest.raises(ConfigError, match="ResNet of depth 50 or more"):
        ablation_table(7, preset(name))


def test_table_8_adds_one_module_at_a_time():
    rows = ablation_table(8, BASE).rows
    plain = rows[0].config
    assert [row.against for row in rows] == [None] + [0] * 9
    differ = [
        {name: value for name, value in row.config.model_dump().items() if value != plain.model_dump()[name]}
        for row in rows
    ]
    assert [set(found) for found in differ] == [
        set(),
        {"neck"},
        {"semantic"},
        {"semantic"},
        {"cascade"},
        {"inference"},
        {"cascade"},
        {"cascade"},
        {"neck"},
        {"backbone"},
    ]
    assert rows[1].config.neck == PAFPN()
    assert [rows[i].config.semantic.context.kind for i in (0, 2, 3)] == ["none", "aspp", "gcn"]
    assert (
        rows[4].config.cascade.pooling,
        rows[6].config.cascade.pooled_levels,
        rows[7].config.cascade.mask_head.kind,
    ) == ("precise", "all", "fine")
    assert rows[5].config.inference.soft_nms.kind == "gaussian"
    assert (rows[8].config.neck.kind, rows[9].config.backbone.switchable_stages) == ("rfp", (3, 4, 5))


def test_table_8_leaves_out_what_is_made_of_residual_blocks():
    base = preset("htc_r50_fpn_20e_paper").replace(backbone=Timm(name="swin_tiny_patch4_window7_224"))
    assert len(ablation_table(8, base).rows) == 8


def test_table_8_on_the_small_model_keeps_its_sizes():
    assert ablation_table(8, preset("htc_r18_small")).rows[1].config.neck == PAFPN(channels=64, norm="group")


def test_soft_nms_is_measured_on_the_training_of_the_row_without():
    digests = [config_digest(row.config) for row in ablation_table(8, BASE).rows]
    assert digests[5] == digests[0]
    assert len(set(digests)) == 9


def test_rows_by_their_names_bring_what_they_are_compared_with():
    whole = ablation_table(2, BASE)
    some = whole.only(["FLOW"])
    assert [row.name for row in some.rows] == ["+ interleaved", "+ mask information flow"]
    assert [row.against for row in some.rows] == [None, 0]
    assert [row.name for row in ablation_table(8, BASE).only(["finer", "gcn"]).rows] == [
        "Hybrid Task Cascade",
        "+ GCN",
        "+ finer masks",
    ]
    assert whole.only([""]) == whole


def test_no_row_of_that_name_is_said_with_the_names_there_are():
    with pytest.raises(ConfigError, match="--rows soft: table 2 has no such row; its rows: Cascade Mask R-CNN"):
        ablation_table(2, BASE).only(["soft"])
