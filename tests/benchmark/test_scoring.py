"""The comparison with pycocotools, on little work."""

from htc.benchmark.scoring import scoring_speed, synthetic_results


def test_both_score_the_same_results_alike():
    found = scoring_speed(6)
    assert (found.images, found.results) == (6, 600)
    assert found.difference < 1e-9
    assert found.ratio == found.pycocotools / found.ours > 0


def test_some_results_are_right_and_most_are_not():
    truth, results = synthetic_results(4, 1)
    assert 4 < len(truth["annotations"]) < 80
    assert all(0 <= result["score"] <= 1 for result in results)
