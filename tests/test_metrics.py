"""Metrics as attributes, tables and the metrics JSON."""

import json

import pytest

from htc.metrics import Metrics

BOX = {"AP": 0.5, "AP50": 0.75, "AP75": 0.6, "APs": -1.0, "APm": 0.4, "APl": 0.55, "AR@100": 0.65}
MASK = {**BOX, "AP": 0.45}
VALUES = {
    "bbox": BOX,
    "segm": MASK,
    "per_class": {"cat": {"bbox": 0.5, "segm": 0.4}, "dog": {"bbox": 0.5, "segm": 0.5}},
}


def test_attributes_are_the_values_of_the_json():
    metrics = Metrics(VALUES)
    assert (metrics.box.ap, metrics.box.ap50, metrics.box.ap75) == (0.5, 0.75, 0.6)
    assert (metrics.mask.ap_small, metrics.mask.ap_medium, metrics.mask.ap_large) == (-1.0, 0.4, 0.55)
    assert (metrics.mask.ap, metrics.mask.ar, metrics.mask.max_detections) == (0.45, 0.65, 100)
    assert metrics.per_class["mask AP"] == [0.4, 0.5]
    assert metrics.per_class[1] == {"class": "dog", "box AP": 0.5, "mask AP": 0.5}
    assert json.loads(json.dumps(metrics.to_dict())) == VALUES
    assert metrics == Metrics(dict(VALUES))
    assert metrics != Metrics({**VALUES, "bbox": MASK})


def test_members_stages_and_other_results():
    against = {"segm": {"AP": 0.4, "difference": 0.05, "low": 0.01, "high": 0.09}}
    metrics = Metrics({**VALUES, "members": {"a": VALUES}, "stages": {"1-3": VALUES}, "against": against})
    assert metrics.members["a"] == metrics.stages["1-3"] == Metrics(VALUES)
    assert metrics.against.columns == ("kind", "AP", "AP against", "difference", "low", "high")
    assert metrics.against.rows == (("mask", 0.45, 0.4, 0.05, 0.01, 0.09),)
    assert Metrics(VALUES).members == {}
    assert len(Metrics(VALUES).against) == 0


def test_it_is_readable():
    metrics = Metrics(VALUES)
    assert repr(metrics) == (
        "Metrics(box AP 50.0, box AP50 75.0, box AP75 60.0, mask AP 45.0, mask AP50 75.0, mask AP75 60.0)"
    )
    assert str(metrics).splitlines()[:3] == [
        "        AP  AP50  AP75  APs   APm   APl  AR@100",
        "box   50.0  75.0  60.0    -  40.0  55.0    65.0",
        "mask  45.0  75.0  60.0    -  40.0  55.0    65.0",
    ]
    assert "dog" in str(metrics)
    assert "<td>45.0</td>" in metrics._repr_html_()


@pytest.mark.parametrize("kinds", [("bbox",), ("bbox", "segm")])
def test_boxes_alone_have_no_mask_metrics(kinds):
    metrics = Metrics(dict.fromkeys(kinds, BOX))
    assert (metrics.mask is None) == ("segm" not in kinds)
    assert len(metrics.table) == len(kinds)
    assert len(metrics.per_class) == 0
