"""What is drawn, through the whole loader: the same samples on every engine, on any number of ranks, after a resume."""

import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from conftest import damage
from killed import train
from test_engines import ENGINES

from budgetloader import (
    ArgumentError,
    ArgumentTypeError,
    BudgetLoader,
    Dataset,
    DatasetError,
    Mixture,
    ResumeError,
    Schedule,
    ScheduleError,
    connect,
)
from budgetloader.convert.converting import convert
from budgetloader.convert.sources import Source, image_folder

SCHEDULE = Schedule.of(["0.5", 1, "0.25"])


class Reversed:
    """A selection of one's own: the last samples first."""

    size = 40
    identity = {"reversed": 1}  # noqa: RUF012

    def ids(self, epoch, positions):
        return 69 - (positions + epoch) % self.size


@pytest.fixture(scope="session")
def other_beton(folder, tmp_path_factory):
    """Some of `folder`'s images, made smaller, in three of its classes, which have other numbers here."""
    source = image_folder(folder)
    classes = (source.classes[5], source.classes[2], source.classes[9])
    taken = [i for i, label in enumerate(source.labels) if source.classes[label] in classes][:13]
    labels = [classes.index(source.classes[source.labels[i]]) for i in taken]
    names = [source.names[i] for i in taken]
    path = tmp_path_factory.mktemp("other") / "other.beton"
    convert(Source(names, labels, classes, lambda i: source.load(taken[i]).resize((64, 48))), path)
    return path


KINDS = {
    "subset": {"samples": list(range(3, 60, 2))},
    "mask": {"samples": np.arange(70) % 3 == 0, "sampling": "cyclic"},
    "blocks": {"sampling": "blocks:4/16"},
    "blocks of a subset": {"sampling": "blocks:4/12", "samples": list(range(3, 60, 2))},
    "weights": {"weights": np.arange(70.0)},
    "balanced subset": {"weights": "balanced", "samples": list(range(50))},
    "own": {"selection": Reversed()},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def drawn(path, *, start=None, stop=None, **options):
    """(epoch, labels, ids) of every batch, and the state after `stop` of them."""
    options = {"schedule": SCHEDULE, "batch_size": 4, "image_size": 16, "workers": 2, "engine": "synthetic", **options}
    found = []
    with BudgetLoader(path, with_ids=True, **options) as batches:
        if start is not None:
            batches.load_state_dict(start)
        for epoch in batches.epochs():
            for _, labels, ids in batches:
                found.append((epoch, labels.tolist(), ids.tolist()))
                if len(found) == stop:
                    return found, json.loads(json.dumps(batches.state_dict()))
        for stats in batches.stats:
            assert stats.samples_decoded == stats.samples_emitted or stats.samples_replaced
    return found, None


@every_kind
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_samples_that_were_chosen(beton, small_beton, kind, engine):
    path = small_beton if engine == "resident" else beton
    batches, _ = drawn(path, engine=engine, **KINDS[kind])
    assert [(e, ids) for e, _, ids in batches] == [(e, ids) for e, _, ids in drawn(beton, **KINDS[kind])[0]]
    labels = Dataset(path).labels
    assert all(given == labels[ids].tolist() for _, given, ids in batches)


@every_kind
def test_ranks_share_what_was_chosen_and_a_state_resumes_it_on_others(beton, kind):
    whole, _ = drawn(beton, **KINDS[kind])
    for ranks in (2, 4):
        parts = [drawn(beton, rank=r, world_size=ranks, **KINDS[kind])[0] for r in range(ranks)]
        for place, (_, _, ids) in enumerate(whole):
            shared = [sample for part in parts for sample in part[place][2]]
            assert set(shared) == set(ids) and (len(ids) < 4 or shared == ids)
    taken, state = drawn(beton, stop=4, **KINDS[kind])
    assert len(json.dumps(state)) < 400
    assert taken + drawn(beton, start=state, **KINDS[kind])[0] == whole


def test_an_epoch_of_a_subset_is_a_share_of_the_subset(beton):
    batches, _ = drawn(beton, samples=list(range(20)))
    assert Counter(epoch for epoch, _, _ in batches) == {0: 2, 1: 5, 2: 1}
    assert sorted(i for epoch, _, ids in batches for i in ids if epoch == 1) == list(range(20))


def test_weights_of_zero_keep_samples_out(beton):
    batches, _ = drawn(beton, weights=np.r_[np.zeros(60), np.ones(10)])
    assert {i for _, _, ids in batches for i in ids} <= set(range(60, 70))


@pytest.mark.parametrize("engine", ["native", "dali"])
def test_several_files_are_one_set(beton, other_beton, engine):
    pytest.importorskip("nvidia.dali") if engine == "dali" else None
    batches, _ = drawn([beton, other_beton], engine=engine, schedule=Schedule.full(epochs=1))
    assert sorted(i for _, _, ids in batches for i in ids) == list(range(83))
    first, second = Dataset(beton), Dataset(other_beton)
    names = {i: first.classes[label] for i, label in enumerate(first.labels)}
    names |= {70 + i: second.classes[label] for i, label in enumerate(second.labels)}
    assert all(first.classes[x] == names[i] for _, labels, ids in batches for x, i in zip(labels, ids, strict=True))


def test_the_pixels_of_joined_files_are_those_of_each(beton, other_beton):
    options = {"train": False, "batch_size": 70, "image_size": 16, "workers": 2, "engine": "native", "dtype": "uint8"}
    with BudgetLoader([beton, other_beton], **options) as both, BudgetLoader(other_beton, **options) as second:
        images = [images.clone() for images, _ in both]
        assert (images[1] == next(iter(second))[0]).all()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_mixture_holds_its_shares_whatever_the_files_sizes(beton, other_beton, ranks):
    mixture = Mixture({beton: "0.3", other_beton: "0.7"})
    parts = [drawn(mixture, rank=r, world_size=ranks, schedule=Schedule.full(epochs=2))[0] for r in range(ranks)]
    order = [i for place in range(len(parts[0])) for part in parts for i in part[place][2]][:83]
    taken = np.cumsum([i >= 70 for i in order])
    assert all(abs(count - Fraction(7, 10) * n) < 1 for n, count in enumerate(taken, 1))
    small = [i for i in order if i >= 70]
    assert set(Counter(small[:52]).values()) == {4}  # four times through its 13


def test_a_mixtures_state_resumes_it(beton, other_beton):
    mixture = Mixture({beton: 1, other_beton: 1})
    whole, _ = drawn(mixture)
    taken, state = drawn(mixture, stop=13)
    assert taken + drawn(mixture, start=state)[0] == whole
    with pytest.raises(ResumeError, match="mixture"):
        drawn(Mixture({beton: 1, other_beton: 2}), start=state)


def test_evaluation_takes_a_subset_in_its_order(beton):
    with BudgetLoader(
        beton, train=False, samples=[9, 4, 60], batch_size=2, image_size=16, engine="synthetic", with_ids=True
    ) as batches:
        assert [ids.tolist() for _, _, ids in batches] == [[9, 4], [60]]


def test_a_replacement_is_one_of_the_selection(beton, tmp_path):
    broken = damage(beton, tmp_path / "broken.beton", samples=tuple(range(0, 20, 2)))
    subset = list(range(20))
    batches, _ = drawn(broken, engine="native", samples=subset, on_corrupt="replace")
    shown = {i for _, _, ids in batches for i in ids}
    assert shown <= set(range(1, 20, 2))


def test_a_state_of_another_selection_is_refused(beton):
    _, state = drawn(beton, stop=1, samples=list(range(16)))
    for other in ({}, {"samples": list(range(1, 17))}, {"weights": "balanced"}):
        with pytest.raises(ResumeError, match="samples|weights"):
            drawn(beton, start=state, **other)
    _, state = drawn(beton, stop=1)
    with pytest.raises(ResumeError, match="weights"):
        drawn(beton, start=state, weights="balanced")


class Wrong:
    def __init__(self, found):
        self.found = found

    def ids(self, epoch, positions):
        return self.found(positions)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weights": "even"}, ArgumentError, "give 'balanced'"),
        ({"weights": [1.0]}, ScheduleError, "the set's 70 samples"),
        ({"samples": [70]}, ScheduleError, "sample 70 is outside"),
        ({"weights": "balanced", "sampling": "cyclic"}, ArgumentError, "does not go with weights="),
        ({"selection": Reversed(), "samples": [1]}, ArgumentError, "leave samples= out"),
        ({"selection": 3}, ArgumentTypeError, r"no method ids\(epoch, positions\)"),
        ({"selection": Wrong(lambda p: p + 70)}, ScheduleError, "gave sample 70"),
        ({"selection": Wrong(lambda p: p[:-1])}, ScheduleError, "one integer for each"),
        ({"selection": Wrong(lambda p: p * 0.5)}, ScheduleError, "float64"),
        ({"train": False, "schedule": None, "weights": "balanced"}, ScheduleError, "leave weights and selection out"),
    ],
)
def test_what_cannot_be_drawn_is_refused(beton, options, error, message):
    with pytest.raises(error, match=message):
        drawn(beton, **options)


def test_files_that_do_not_go_together_are_refused(folder, beton, other_beton, tmp_path):
    source = image_folder(folder)
    nameless = tmp_path / "nameless.beton"
    convert(Source(source.names[:2], [0, 1], (), source.load), nameless)
    with pytest.raises(DatasetError, match="names its classes and .* does not"):
        drawn([beton, nameless])
    with pytest.raises(DatasetError, match="are the same samples"):
        drawn([beton, other_beton, beton])
    with pytest.raises(ArgumentError, match="empty list"):
        drawn([])
    with pytest.raises(ArgumentTypeError, match="holds 3"):
        drawn([beton, 3])
    with pytest.raises(ArgumentError, match="leave one of them out"):
        drawn(Mixture({beton: 1, other_beton: 1}), samples=[1])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({}, [36 / 70, 1, 16 / 70]),
        ({"sampling": "static"}, [36 / 70, 1, 16 / 70]),
        ({"samples": list(range(20))}, [8 / 70, 20 / 70, 4 / 70]),
        ({"selection": Reversed()}, [None] * 3),
    ],
)
def test_stats_say_which_share_of_the_set_an_epoch_sees(beton, kind, expected):
    options = {"schedule": SCHEDULE, "batch_size": 4, "image_size": 16, "engine": "synthetic", **kind}
    with BudgetLoader(beton, **options) as batches:
        for _ in batches.epochs():
            for _ in batches:
                break
        assert [stats.set_share for stats in batches.stats] == pytest.approx(expected)


def test_the_share_that_weighted_draws_and_mixtures_see_is_the_expected_one(beton, other_beton):
    for path, kind in ((beton, {"weights": np.arange(70.0)}), (Mixture({beton: 1, other_beton: 1}), {})):
        seen = []
        options = {"schedule": Schedule.full(epochs=40), "batch_size": 4, "image_size": 16, "with_ids": True, **kind}
        with BudgetLoader(path, engine="synthetic", **options) as batches:
            for _ in batches.epochs():
                seen.append(len({i for _, _, ids in batches for i in ids.tolist()}) / len(batches.dataset))
        assert abs(np.mean(seen) - batches.stats[0].set_share) < 0.03


TRAINING = """
import contextlib, json, os, signal, sys
import numpy as np
from budgetloader import BudgetLoader, Mixture, Schedule

path, other, folder, save, kill_at = *sys.argv[1:5], int(sys.argv[5])
kinds = {
    "subset": (path, {"samples": list(range(3, 60, 2))}), "condition": (path, {"samples": "sample % 3 == 0"}),
    "weights": (path, {"weights": np.arange(70.0)}), "balanced": (path, {"weights": "balanced"}),
    "files": ([path, other], {}), "mixture": (Mixture({path: 1, other: 2}), {}), "folder": (folder, {}),
}
options = {"schedule": Schedule.of([1, "0.5"]), "batch_size": 8, "image_size": 16, "workers": 1, "with_ids": True}

def show(batch):
    return [batch[2].tolist(), batch[0].sum().item()]
"""


@pytest.mark.long
def test_every_kind_of_selection_goes_on_after_sigkill_as_if_nothing_had_happened(beton, other_beton, folder, tmp_path):
    files = beton, other_beton, folder
    whole = train(TRAINING, *files, save=tmp_path / "whole", kill_at=-1)
    parts = [
        step for kill_at in (2, 1, -1) for step in train(TRAINING, *files, save=tmp_path / "killed", kill_at=kill_at)
    ]
    for kind in whole[0]:
        assert [step[kind] for step in parts if kind in step] == [step[kind] for step in whole if kind in step]
    assert len(whole) > 8


def test_files_in_place_of_a_services_name_are_refused_with_what_to_do_instead(beton, other_beton):
    for several in (Mixture({beton: 1, other_beton: 2}), [beton, other_beton]):
        with pytest.raises(ArgumentTypeError, match="not the name of a service; .*several files, and mixture= says"):
            connect(several, schedule=Schedule.full(epochs=1), batch_size=8, image_size=16)
