"""What a study compares: arms of equal budget, the order of its runs, its statistics."""

import math

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from studies import TINY, made_up, pilot_rows

from budgetloader.bench.study import arms, statistics, tasks
from budgetloader.bench.study.recipes import FASHION, Arm

# Arms


@pytest.mark.parametrize("arm", FASHION.arms, ids=lambda arm: arm.name)
def test_arms_of_a_budget_take_equally_many_samples(arm):
    wanted = arms.steps(arm, FASHION, samples=55_000)
    same = [other for other in FASHION.arms if other.budget == arm.budget]
    assert {arms.steps(other, FASHION, samples=55_000) for other in same} == {wanted}
    if arm.plan != "infobatch":
        budget = arms.schedule(arm, FASHION, samples=55_000).budget(55_000, batch_size=125)
        assert sum(budget.epoch_samples(e) for e in range(len(budget.batches))) == 125 * wanted


def test_the_arms_are_those_of_the_page():
    page_text = (ROOT / "docs" / "evidence.md").read_text()
    for arm in FASHION.arms:
        assert f"`{arm.kind}`" in page_text
    assert {arm.budget for arm in FASHION.arms} == {"1", "0.618", "0.3", "0.1", "R2", "R3"}
    for number in (
        "55,000",
        "5,000",
        "10,000",
        "batches of 125",
        "16 epochs",
        "9001 and 9002",
        "from 10 to 20",
        "75,290",
    ):
        assert number in page_text


@given(st.integers(2, 40), st.integers(2, 500), st.data())
def test_progressive_dropout_spends_its_budget_and_ends_with_a_full_epoch(epochs, full, data):
    total = data.draw(st.integers(full + 1, epochs * full))
    counts = arms.progressive(total, epochs=epochs, full=full)
    assert sum(counts) == total and counts[-1] == full and len(counts) <= epochs
    assert counts[:-1] == sorted(counts[:-1], reverse=True) and 0 < min(counts) <= max(counts) <= full


def test_progressive_dropout_needs_more_than_its_full_epoch():
    with pytest.raises(ValueError, match="needs more than 10"):
        arms.progressive(10, epochs=4, full=10)


def test_the_learning_rate_follows_the_budget_and_in_the_dissertations_schedules_the_epochs():
    flat, paper = FASHION.arm("short@0.1"), FASHION.arm("three-stage@R3")
    assert arms.progress(flat, [440, 264], epoch=1, step=0) == 440 / 704
    assert arms.progress(paper, [352, 110], epoch=1, step=55) == 0.75
    rates = [arms.learning_rate(flat, FASHION, factor=2, at=at) for at in (0, 0.49, 0.5, 0.75)]
    assert rates == pytest.approx([0.2, 0.2, 0.02, 0.002])
    linear, cosine = Arm("x", "0.1", "short", decay="linear"), Arm("x", "0.1", "short", decay="cosine")
    assert arms.learning_rate(linear, FASHION, factor=1, at=0.75) == pytest.approx(0.025)
    assert arms.learning_rate(cosine, FASHION, factor=1, at=0.5) == pytest.approx(0.05)


# Which runs there are


def test_primary_arms_come_first_and_main_runs_wait_for_the_pilot():
    ready = tasks.ready(TINY, {})
    assert {one.phase for one in ready} == {"pilot"} and [one.arm.primary for one in ready][:12] == [True] * 12
    rows = pilot_rows(TINY, spread=0.1)
    ready = tasks.ready(TINY, rows)
    assert [one.name for one in ready][:3] == [f"main/{kind}@0.618/seed0" for kind in ("flat", "short", "short-linear")]
    assert all(one.factor == 0.5 for one in ready[:3])  # which got one point more
    assert {one.phase for one in ready[6:]} == {"pilot"} and not any(one.arm.primary for one in ready[6:])


def test_the_smallest_budget_of_the_primary_arms_is_trained_first():
    found = [(group[0].budget, group[0].primary) for group in tasks.groups(FASHION)]
    ratios = [(budget, True) for budget in ("0.1", "0.3", "0.618")]
    others = [(budget, False) for budget in ("0.1", "0.3", "0.618", "R3", "R2", "1")]
    assert found == ratios + others
    assert sum(len(group) for group in tasks.groups(FASHION)) == len(FASHION.arms)


def test_of_equally_good_learning_rates_the_first_is_taken():
    rows = {name: row | {"correct": 7} for name, row in pilot_rows(TINY, spread=0).items()}
    assert tasks.factor(TINY, TINY.arm("flat@0.618"), rows) == 1.0
    del rows["pilot/flat@0.618/x0.5/seed9002"]
    assert tasks.factor(TINY, TINY.arm("flat@0.618"), rows) is None and tasks.seeds(TINY, "0.618", rows) is None


@pytest.mark.parametrize(("spread", "seeds"), [(0.0, 10), (0.3, 10), (0.5, 13), (5.0, 20)])
def test_seeds_are_as_many_as_the_pilots_spread_asks_for(spread, seeds):
    rows = pilot_rows(FASHION, spread=spread)
    for budget in ("0.618", "0.3", "0.1"):
        assert statistics.pilot_spread(FASHION, rows, budget=budget) == pytest.approx(spread, abs=1e-3)
    for budget in ("0.1", "R3", "1"):
        assert len(tasks.seeds(FASHION, budget, rows)) == seeds
        assert not set(tasks.seeds(FASHION, budget, rows)) & set(FASHION.pilot_seeds)
    del rows["pilot/flat@0.618/x1/seed9001"]
    assert tasks.seeds(FASHION, "0.618", rows) is None is tasks.seeds(FASHION, "R3", rows)
    assert len(tasks.seeds(FASHION, "0.1", rows)) == seeds


@pytest.mark.parametrize(("spread", "seeds"), [(0.0, 10), (0.4, 10), (0.8, 27), (5.0, 40)])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_seeds_are_added_where_the_main_runs_spread_asks_for_more_whoever_is_ahead(spread, seeds, shift):
    rows = pilot_rows(FASHION, spread=0.0)
    even = math.sqrt(9 / 10) * spread  # the standard deviation of five values at each of ± this
    flat = [80 + shift + even * (1 if seed % 2 else -1) for seed in range(10)]
    rows |= made_up(seeds=10, flat=flat, short=[80] * 10, short_linear=[80] * 9)
    assert len(tasks.seeds(FASHION, "0.618", rows)) == 10  # before all of the first stage's are there
    rows |= made_up(seeds=10, short_linear=[80] * 10)
    assert len(tasks.seeds(FASHION, "0.618", rows)) == seeds
    assert len(tasks.seeds(FASHION, "R3", rows)) == 10 == len(tasks.seeds(FASHION, "0.1", rows))


# Statistics


def test_holms_correction_is_that_of_its_textbook_example():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == [] and statistics.holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("flat", "verdict"),
    [
        ([80.1, 80.0, 80.2, 80.1], "equivalent"),
        ([83.1, 83.0, 83.2, 83.1], "better"),
        ([77.1, 77.0, 77.2, 77.1], "worse"),
        ([79.1, 83.0, 77.2, 82.1], "open"),
    ],
)
def test_a_contrast_is_called_what_its_tests_say(flat, verdict):
    rows = made_up(flat=flat, short=[80.0, 80.05, 80.1, 80.0])
    (found,) = statistics.contrasts(rows, [("flat@0.618", "short@0.618"), ("flat@0.618", "static@0.618")])
    assert found.verdict == verdict and len(found.differences) == 4
    mean, half = statistics.interval(found.differences)
    assert (found.mean, found.half_width) == (mean, half) and found.mean == pytest.approx(np.mean(flat) - 80.0375)


def test_contrasts_are_paired_by_seed():
    rows = made_up(flat=[80.0, 85.0, 90.0], short=[79.9, 84.9, 89.9])
    (found,) = statistics.contrasts(rows, [("flat@0.618", "short@0.618")])
    assert found.mean == pytest.approx(0.1) and found.half_width == pytest.approx(0, abs=1e-6)
    del rows["main/short@0.618/seed1"]
    assert len(statistics.contrasts(rows, [("flat@0.618", "short@0.618")])[0].differences) == 2


@given(st.lists(st.integers(-300, 300), min_size=3, max_size=12, unique=True))
def test_equivalence_is_the_95_percent_interval_of_two_one_sided_tests(hundredths):
    from scipy import stats

    differences = [value / 100 for value in hundredths]
    error = np.std(differences, ddof=1) / math.sqrt(len(differences))
    half = stats.t.ppf(0.95, len(differences) - 1) * error  # of the 90 % interval
    inside = abs(np.mean(differences)) + half < statistics.MARGIN
    assert (statistics._tests(differences)[1] < 0.05) == inside
