"""Selections that change while a loader trains: the same samples on every engine, any ranks, and after a resume."""

import json

import numpy as np
import pytest
import torch
from conftest import damage
from learning import COMMON, SCHEDULE, losses_of, trained
from test_engines import ENGINES

from budgetloader import (
    ArgumentError,
    BudgetLoader,
    Choice,
    InfoBatch,
    ResumeError,
    Schedule,
    ScheduleError,
    ScoreSelection,
)
from budgetloader.selections import packing

# InfoBatch, through the whole loader


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_what_infobatch_chose(beton, small_beton, engine):
    path = small_beton if engine == "resident" else beton
    assert trained(path, engine=engine)[0] == trained(beton)[0]


def test_well_learnt_samples_are_left_out_at_random_and_the_others_scaled_up(beton):
    found, _, _ = trained(beton, schedule=Schedule.full(epochs=4))
    shown = {e: [i for epoch, ids, _ in found for i in ids if epoch == e] for e in range(4)}
    assert sorted(shown[0]) == list(range(70)) and sorted(shown[3]) == list(range(70))  # no losses yet; annealing
    for epoch in (1, 2):
        scores = losses_of(torch.arange(70), 0).numpy()
        if epoch == 2:
            scores[shown[1]] = losses_of(torch.tensor(shown[1]), 1).numpy()
        low = set(np.flatnonzero(scores < scores.mean(dtype=np.float64)).tolist())
        left_out = set(range(70)) - set(shown[epoch])
        assert left_out and left_out < low and len(shown[epoch]) == len(set(shown[epoch]))
        weights = {i: w for e, ids, ws in found for i, w in zip(ids, ws, strict=True) if e == epoch}
        assert weights == {i: 2.0 if i in low else 1.0 for i in shown[epoch]}
    assert {w for e, _, ws in found for w in ws if e in (0, 3)} == {1.0}


def test_len_is_the_number_of_batches_of_what_is_left(beton):
    with BudgetLoader(beton, selection=InfoBatch(), **COMMON) as batches:
        for epoch in batches.epochs():
            said, came = len(batches), 0
            for _, _, ids, _ in batches:
                batches.feedback(ids, losses_of(ids, epoch))
                came += 1
            kept = batches._planner.selection._filtered.samples(epoch)
            assert said == came == max(1, int(SCHEDULE.ratios[epoch] * -(-kept // 4)))


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_a_state_resumes_a_learning_selection_in_mid_epoch(beton, lag):
    selection = InfoBatch(annealing=0.25, lag=lag)
    whole, _, _ = trained(beton, selection=selection)
    for stop in (3, 18, 25, 34):
        taken, state, _ = trained(beton, selection=selection, stop=stop)
        assert taken + trained(beton, selection=selection, start=state)[0] == whole


def test_a_look_and_a_second_pass_change_nothing(beton):
    whole, _, _ = trained(beton)
    with BudgetLoader(beton, selection=InfoBatch(annealing=0.25), **COMMON) as batches:
        found = []
        for epoch in batches.epochs():
            next(iter(batches))
            for _, _, ids, weights in batches:
                found.append((epoch, ids.tolist(), weights.tolist()))
                batches.feedback(ids, losses_of(ids, epoch))
    assert found == whole


def test_the_order_in_which_losses_come_does_not_matter(beton):
    found = []
    for order in (slice(None), slice(None, None, -1)):
        with BudgetLoader(beton, selection=InfoBatch(), **COMMON) as batches:
            rows = [(ids, losses_of(ids, 0) + 0.1 * k) for _, _, ids, _ in batches for k in range(3)]
            for ids, losses in rows[order]:
                batches.feedback(ids, losses)
            found.append([ids.tolist() for _, _, ids, _ in batches])
    assert found[0] == found[1]


def test_losses_that_are_not_finite_say_nothing(beton):
    with BudgetLoader(beton, selection=InfoBatch(), **COMMON) as batches:
        for _, _, ids, _ in batches:
            batches.feedback(ids, torch.full((4,), float("nan"))[: len(ids)])
        assert len(list(batches)) == 9  # half of all 18


class Hardest(ScoreSelection):
    """A selection of one's own: the half with the highest losses, and what has none yet."""

    def choose(self, epoch, scores, *, epochs, seed):
        known = np.nan_to_num(scores, nan=np.inf)
        kept = np.zeros(len(scores), bool)
        kept[np.argsort(-known, kind="stable")[: len(scores) // 2 if epoch else None]] = True
        return Choice(kept)

    def update(self, scores, losses):
        return np.where(np.isnan(scores), losses, 0.5 * scores + 0.5 * losses)


def test_a_learning_selection_of_ones_own(beton):
    found, _, _ = trained(beton, selection=Hardest(), schedule=Schedule.full(epochs=3))
    second = {i for epoch, ids, _ in found for i in ids if epoch == 1}
    assert second == set(np.argsort(-losses_of(np.arange(70), 0).numpy(), kind="stable")[:35].tolist())
    taken, state, _ = trained(beton, selection=Hardest(), schedule=Schedule.full(epochs=3), stop=22)
    rest, _, _ = trained(beton, selection=Hardest(), schedule=Schedule.full(epochs=3), start=state)
    assert taken + rest == found


def test_a_replacement_is_one_of_what_is_left(beton, tmp_path):
    broken = damage(beton, tmp_path / "broken.beton", samples=tuple(range(0, 20, 2)))
    options = {**COMMON, "engine": "native", "on_corrupt": "replace", "with_ids": True}
    with BudgetLoader(broken, **options) as batches:
        batches.select(0, list(range(20)))
        assert {i for _, _, ids in batches for i in ids.tolist()} <= set(range(1, 20, 2))


# select


def selected(path, ids, **options):
    """The ids and the windows of an epoch that was selected, and those of the full one."""
    with BudgetLoader(path, **{**COMMON, "with_ids": True, "schedule": Schedule.full(epochs=2), **options}) as batches:
        batches.select(0, ids)
        planner = batches._planner
        plans = list(planner.plans(0, range(planner.steps[0])))
        return [i for plan in plans for i in plan.samples.tolist()], np.concatenate([plan.windows for plan in plans])


def test_what_is_left_keeps_its_order_and_its_windows(beton):
    full, windows = selected(beton, list(range(70)))
    some = [5, 9, 60, 11, 3, 42, 7]
    ids, own = selected(beton, some)
    places = [place for place, i in enumerate(full) if i in some]
    assert ids == [full[place] for place in places]
    np.testing.assert_array_equal(own, windows[places])
    assert selected(beton, np.isin(np.arange(70), some))[0] == ids


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_and_rank_gives_a_selected_epoch(beton, small_beton, engine):
    path = small_beton if engine == "resident" else beton
    some = list(range(0, 70, 3))
    expected, _ = selected(beton, some)
    for ranks in (1, 2, 4):
        parts = []
        for rank in range(ranks):
            options = {"engine": engine, "rank": rank, "world_size": ranks, "with_ids": True}
            with BudgetLoader(path, **{**COMMON, **options}) as batches:
                batches.select(0, some)
                parts.append([ids.tolist() for _, _, ids in batches])
                assert all(s.samples_decoded == s.samples_emitted for s in batches.stats)
        assert [i for batch in zip(*parts, strict=True) for part in batch for i in part] == expected


@pytest.mark.parametrize("engine", ["native", "synthetic"])
def test_what_was_prefetched_for_an_epoch_that_is_changed_is_dropped_and_counted(beton, engine):
    options = {**COMMON, "engine": engine, "with_ids": True, "prefetch": 3, "schedule": Schedule.full(epochs=3)}
    with BudgetLoader(beton, **options) as batches:
        before = [ids.tolist() for _, _, ids in batches]
        batches.select(1, [1, 2, 3, 4, 5])
        after = [ids.tolist() for _, _, ids in batches]
        last = [ids.tolist() for _, _, ids in batches]
    assert len(before) == 18 and sorted(i for ids in after for i in ids) == [1, 2, 3, 4, 5] and len(last) == 18
    assert [stats.samples_dropped for stats in batches.stats] == [0, 12, 0]
    assert batches.stats[1].samples_decoded <= 5 + 12


def test_a_selection_in_mid_epoch_drops_nothing_of_that_epoch(beton):
    options = {**COMMON, "with_ids": True, "prefetch": 4, "schedule": Schedule.full(epochs=2)}
    with BudgetLoader(beton, **options) as plain:
        expected = [ids.tolist() for _, _, ids in plain]
    with BudgetLoader(beton, **options) as batches:
        found = []
        for step, (_, _, ids) in enumerate(batches):
            found.append(ids.tolist())
            if step in (15, 16):  # the first batches of the next epoch are under way
                batches.select(1, list(range(8 + step)))
        assert found == expected
        assert sum(len(ids) for _, _, ids in batches) == 24
    assert batches.stats[0].samples_dropped == 0 and 4 <= batches.stats[1].samples_dropped <= 16
    assert batches.stats[0].samples_decoded == 70


def test_a_selected_epoch_is_a_part_of_the_state(beton):
    options = {**COMMON, "with_ids": True}
    some = list(range(30))

    def rest(batches):
        return [ids.tolist() for _ in batches.epochs() for _, _, ids in batches]

    with BudgetLoader(beton, **options) as batches:
        batches.select(2, some)
        taken = []
        for epoch in batches.epochs():
            for _, _, ids in batches:
                taken.append(ids.tolist())
                if (epoch, batches.step) == (2, 3):
                    state = json.loads(json.dumps(batches.state_dict()))
        whole = taken
    with BudgetLoader(beton, **options) as batches:
        batches.load_state_dict(state)
        assert rest(batches) == whole[18 + 9 + 3 :]
    with BudgetLoader(beton, **options) as batches:
        batches.select(3, some)
        batches.load_state_dict(
            {name: value for name, value in state.items() if name != "chosen"} | {"epoch": 3, "step": 0}
        )
        assert len(rest(batches)) == 18  # a state without choices is of a loader without


def test_large_choices_lie_beside_the_state(beton, monkeypatch, tmp_path):
    monkeypatch.setattr(packing, "INLINE_BYTES", 1)
    whole, _, _ = trained(beton)
    taken, state, beside = trained(beton, stop=25)
    assert len(json.dumps(state)) < 1000 and "content" not in state["chosen"]
    with pytest.raises(ResumeError, match=r"load_state_dict\(state, selection=…\)"):
        trained(beton, start=state)
    with pytest.raises(ResumeError, match="digest"):
        trained(beton, start=state, beside={**beside, "scores": beside["scores"] + 1})
    np.savez(tmp_path / "beside.npz", **beside)
    with np.load(tmp_path / "beside.npz") as saved:
        assert taken + trained(beton, start=state, beside=dict(saved))[0] == whole


def test_a_refused_state_changes_nothing(beton):
    taken, state, _ = trained(beton, stop=20)
    whole, _, _ = trained(beton)
    with BudgetLoader(beton, selection=InfoBatch(annealing=0.25), **COMMON) as batches:
        batches.load_state_dict(state)
        for damaged in (
            {**state, "chosen": {**state["chosen"], "content": "AAAA"}},
            {**state, "chosen": {**state["chosen"], "digest": "0"}},
            {**state, "chosen": 3},
            {**state, "seed": 5},
            {**state, "lag": 2},
            {**state, "prune_ratio": 0.6},
            {**state, "selection_epochs": 5},
            {name: value for name, value in state.items() if name != "chosen"},
        ):
            with pytest.raises(ResumeError):
                batches.load_state_dict(damaged)
        found = []
        for epoch in batches.epochs():
            for _, _, ids, weights in batches:
                found.append((epoch, ids.tolist(), weights.tolist()))
                batches.feedback(ids, losses_of(ids, epoch))
    assert taken + found == whole


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda b: b.select(9, [1]), ScheduleError, "epoch 9 is outside the schedule's 4"),
        (lambda b: b.select(True, [1]), ScheduleError, "epoch True is outside"),
        (lambda b: b.select(0, [1]), ScheduleError, "epoch 0 has begun"),
        (lambda b: b.select(1, [70]), ScheduleError, "sample 70 is outside"),
        (lambda b: b.select(1, []), ScheduleError, "names none"),
        (lambda b: b.feedback([1], [0.5]), ArgumentError, "no selection that learns"),
    ],
)
def test_what_cannot_be_selected_is_refused(beton, call, error, message):
    with BudgetLoader(beton, **COMMON) as batches:
        for step, _ in enumerate(batches):
            if step == 2:
                with pytest.raises(error, match=message):
                    call(batches)


@pytest.mark.parametrize(
    ("ids", "losses", "message"),
    [
        ([1, 2], [0.5], r"ids int64 \[2\] and losses \[1\]"),
        ([[1]], [[0.5]], "one loss per sample"),
        ([0.5], [0.5], "float64"),
        ([70], [0.5], "a loss of sample 70"),
    ],
)
def test_losses_of_no_samples_are_refused(beton, ids, losses, message):
    with BudgetLoader(beton, selection=InfoBatch(), **COMMON) as batches, pytest.raises(ScheduleError, match=message):
        batches.feedback(ids, np.asarray(losses))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": "balanced"}, ArgumentError, "without weights="),
        ({"sampling": "cyclic"}, ArgumentError, "sampling='independent'"),
        ({"selection": InfoBatch()}, ArgumentError, "a selection= of your own"),
        ({"train": False, "schedule": None}, ArgumentError, "where it trains"),
    ],
)
def test_loaders_that_draw_otherwise_cannot_be_told_what(beton, options, error, message):
    with BudgetLoader(beton, **{**COMMON, **options}) as batches, pytest.raises(error, match=message):
        batches.select(1, [1])


def test_select_stays_among_the_samples_of_the_loader(beton):
    with BudgetLoader(beton, samples=list(range(20)), **{**COMMON, "with_ids": True}) as batches:
        with pytest.raises(ScheduleError, match="sample 20 is not among"):
            batches.select(0, [1, 20])
        batches.select(0, [1, 2, 19])
        assert sorted(i for _, _, ids in batches for i in ids.tolist()) == [1, 2, 19]
