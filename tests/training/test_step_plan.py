"""The length of a training in steps: what fits into a time, and how a plan changes without a jump of the rate."""

import pytest

from htc.training.schedule import (
    Costs,
    StepPlan,
    evaluation_interval,
    evaluations_between,
    largest_that_fits,
    steps_within,
)


def test_a_plan_that_changes_continues_its_share():
    plan = StepPlan(100)
    assert [plan.share(step) for step in (0, 25, 100, 120)] == [0.0, 0.25, 1.0, 1.0]
    plan.change(40, 60)
    assert [plan.share(step) for step in (20, 40, 50, 60)] == pytest.approx([0.2, 0.4, 0.7, 1.0])
    plan.change(50, 150)
    assert [plan.share(step) for step in (20, 45, 50, 100, 150)] == pytest.approx([0.2, 0.55, 0.7, 0.85, 1.0])
    assert plan.position(100) == pytest.approx(85)
    again = StepPlan(1)
    again.restore(plan.state())
    assert [again.share(step) for step in range(200)] == [plan.share(step) for step in range(200)]
    plan.restart(80)
    assert (plan.share(40), plan.position(80)) == (0.5, 80)


def test_a_plan_has_at_least_the_next_step():
    plan = StepPlan(10)
    plan.change(5, 3)
    assert plan.steps == 6
    assert StepPlan(0).steps == 1


@pytest.mark.parametrize("evaluation", [0.0, 2.5, 7.0])
@pytest.mark.parametrize("every", [1, 7, 30, 1000])
@pytest.mark.parametrize(("seconds", "step"), [(100.0, 0), (100.0, 13), (9.0, 0), (3.0, 20)])
def test_the_steps_fill_the_time_and_no_more(evaluation, every, seconds, step):
    costs = Costs(0.7, evaluation, writing=4.0)

    def total(steps):
        interim = evaluations_between(step, steps, every)
        return (steps - step) * costs.step + (interim + 1) * evaluation + costs.writing

    steps = steps_within(costs, seconds, every, step)
    assert steps >= step
    if steps > step:
        assert total(steps) <= seconds
        # within one step, or one evaluation if one more step would need another evaluation
        assert seconds - total(steps) <= costs.step + 2 * evaluation
    else:
        assert total(step + 1) > seconds


def test_no_evaluation_shortly_before_the_last_one():
    assert evaluations_between(0, 100, 30) == 2  # after 30 and 60; 90 is nearer to the end than 15
    assert evaluations_between(0, 110, 30) == 3
    assert evaluations_between(0, 90, 30) == 2
    assert evaluations_between(35, 110, 30) == 2


def test_evaluations_take_a_small_part_of_the_time():
    # 600 s of 1 s: 60 epochs of 10 steps; evaluations of 6 s may take 72 s: 12 of them, after every 5th epoch.
    assert evaluation_interval(Costs(1.0, 6.0, 3.0), 600, 10) == 5
    assert evaluation_interval(Costs(1.0, 0.1, 3.0), 600, 10) == 3  # at most 20 and the last
    assert evaluation_interval(Costs(1.0, 100.0, 3.0), 600, 10) == 29  # 0.72: hardly one
    assert evaluation_interval(Costs(1.0, 5.0, 3.0), 600, 10_000) == 1


def test_the_largest_size_that_fits():
    assert largest_that_fits([9.0, 5.0, 2.0], 10) == 0
    assert largest_that_fits([9.0, 5.0, 2.0], 6) == 1
    assert largest_that_fits([9.0, 5.0, 2.0], 1) == 2
