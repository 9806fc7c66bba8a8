"""An ablation of a tiny model on generated images: from files to tables, interrupted and gone on with."""

import json
import shutil
from dataclasses import replace

import pytest

from htc.ablation import report, run
from htc.ablation.report import content, headings, lines_of, markdown, row_cells
from htc.ablation.run import Budget, run_ablation, truth_of
from htc.ablation.tables import AblationTable, ablation_table
from htc.data.coco import Splits
from htc.errors import DataError, OutputError
from htc.evaluation.coco import coco_metrics
from htc.evaluation.files import read_results
from htc.evaluation.run import evaluate_model
from htc.inference.ensemble import EnsemblePredictor
from htc.inference.load import load
from htc.inference.views import parse_views
from training.discs import write_split
from training.tiny import tiny

BUDGET = Budget(seeds=(3, 4), device="cpu")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(report, "DRAWS", 20)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return Splits(
        write_split(folder, "train", 3, 0), folder / "train", write_split(folder, "val", 3, 1), folder / "val"
    )


@pytest.fixture(scope="module")
def tables():
    return (ablation_table(4, tiny(epochs=1)),)


@pytest.fixture(scope="module")
def done(splits, tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation") / "out"
    return out, run_ablation(tables, splits, out, BUDGET)


def test_every_row_is_measured_with_every_seed(done):
    _, measured = done
    assert {(one.row, one.seed) for one in measured[4]} == {(row, seed) for row in range(8) for seed in (3, 4)}


def test_shared_rows_are_trained_once(done):
    out, measured = done
    assert len(list((out / run.TRAININGS).iterdir())) == 2 * 2
    by_row = {one.row: one.results for one in measured[4] if one.seed == 3}
    assert by_row[0].parent == by_row[3].parent != by_row[4].parent
    assert len(set(by_row.values())) == 8


def test_lines_hold_cocos_own_numbers_and_differences(done, splits, tables):
    _, measured = done
    truth = truth_of(splits)
    lines = lines_of(tables[0], measured[4], truth)
    for place, line in enumerate(lines):
        for seed, box, mask in zip(line.seeds, line.ap["bbox"], line.ap["segm"], strict=True):
            results = next(read_results(one.results) for one in measured[4] if (one.row, one.seed) == (place, seed))
            metrics = coco_metrics(truth, results, 20)
            assert (box, mask) == pytest.approx((metrics["bbox"]["AP"], metrics["segm"]["AP"]), abs=1e-12)
        if place >= 4:
            difference = line.differences["segm"]
            own, other = sum(line.ap["segm"]) / 2, sum(lines[place - 4].ap["segm"]) / 2
            assert difference.mean == pytest.approx(own - other)
            assert difference.low <= difference.high
        else:
            assert not line.differences


def test_the_table_is_written_for_people_and_programs(done, splits, tables):
    _, measured = done
    lines = lines_of(tables[0], measured[4], truth_of(splits))
    text = markdown(tables[0], lines)
    assert text.count("\n|") == 10
    assert "with mask flow, stage 1-3" in text
    assert all(len(row) == len(headings(tables[0])) for row in row_cells(tables[0], lines))
    stored = json.loads(json.dumps(content(tables[0], lines)))
    assert [row["seeds"] for row in stored["rows"]] == [[3, 4]] * 8
    assert stored["rows"][7]["published"] == {"bbox": None, "segm": 37.4}


def test_a_second_call_trains_nothing(done, splits, tables, monkeypatch):
    out, measured = done
    monkeypatch.setattr(run, "run_training", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(run, "evaluate_stages", lambda *_: pytest.fail("measured again"))
    assert run_ablation(tables, splits, out, BUDGET) == measured


def test_it_goes_on_where_it_was_interrupted(done, splits, tables, tmp_path):
    out, measured = done
    shutil.copytree(out, tmp_path / "out")
    first = tmp_path / "out" / measured[4][0].results.relative_to(out).parent
    shutil.rmtree(first / "model")
    (first / measured[4][0].results.name).unlink()
    again = run_ablation(tables[:1], splits, tmp_path / "out", BUDGET)
    same = [
        read_results(one.results) == read_results(other.results)
        for one, other in zip(again[4], measured[4], strict=True)
    ]
    assert all(same)


def test_no_training_begins_after_the_time(splits, tables, tmp_path):
    measured = run_ablation(tables[:1], splits, tmp_path / "out", Budget((0,), minutes=0, device="cpu"))
    assert measured == {4: ()}
    assert lines_of(tables[0], (), truth_of(splits)) == ()


def test_without_validation_images_it_says_what_to_give(splits, tables, tmp_path):
    with pytest.raises(DataError, match="--val-annotations"):
        run_ablation(tables, Splits(splits.train_annotations, splits.train_images, None, None), tmp_path / "out")


def test_the_folder_of_another_ablation_is_refused(done, splits, tables):
    out, _ = done
    other = Splits(splits.val_annotations, splits.val_images, splits.val_annotations, splits.val_images)
    with pytest.raises(OutputError, match="another dataset"):
        run_ablation(tables, other, out)


def test_a_folder_with_something_else_is_refused(splits, tables, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="does not contain an ablation"):
        run_ablation(tables, splits, tmp_path)


def test_rows_that_differ_in_soft_nms_alone_share_a_training_and_are_measured_apart(splits, tmp_path):
    whole = ablation_table(8, tiny(epochs=1))
    rows = (whole.rows[5], whole.rows[0])  # the one with Soft-NMS trains: its model must not hand it on
    measured = run_ablation((AblationTable(8, "", rows),), splits, tmp_path / "out", Budget((0,), device="cpu"))[8]
    soft, plain = (one.results for one in measured)
    assert soft.parent == plain.parent
    assert soft != plain
    assert len(read_results(soft)) >= len(read_results(plain))
    assert read_results(soft) != read_results(plain)


def test_a_row_of_several_views_shares_a_training_and_is_measured_apart(splits, tmp_path):
    plain = ablation_table(8, tiny(epochs=1)).rows[0]
    rows = (plain, replace(plain, augment="1:flip"))
    measured = run_ablation((AblationTable(7, "", rows),), splits, tmp_path / "out", Budget((0,), device="cpu"))[7]
    alone, flipped = (read_results(one.results) for one in measured)
    assert measured[0].results.parent == measured[1].results.parent
    assert flipped != alone
    model = measured[0].results.parent / "model"
    settings = {"score_threshold": 0.001, "max_detections": 20}
    view = EnsemblePredictor([load(model, device="cpu", inference=settings)], parse_views("1:flip"))
    assert flipped == evaluate_model(view, splits.val_annotations, splits.val_images)[1]


def test_modules_are_compared_by_outlines_too(splits, tmp_path):
    whole = ablation_table(8, tiny(epochs=1)).only(["Soft-NMS"])  # one training
    measured = run_ablation((whole,), splits, tmp_path / "out", Budget((0,), device="cpu"))[8]
    plain, soft = lines_of(whole, measured, truth_of(splits))
    assert set(plain.ap) == {"bbox", "segm", "boundary"}
    assert set(soft.differences) == {"segm", "boundary"}
    assert soft.differences["boundary"].by_seed == (soft.ap["boundary"][0] - plain.ap["boundary"][0],)
    assert "| boundary AP against |" in markdown(whole, (plain, soft))
    assert len(row_cells(whole, (plain, soft))[1]) == len(headings(whole))
