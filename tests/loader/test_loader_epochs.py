"""The loop over epochs: run again, resumed, resumed as a longer one, and what a look costs."""

import json

import pytest
from test_loader import digest, position, whole_stream

from budgetloader import EngineError, ResumeError, Schedule, ScheduleError


def test_the_epochs_loop_goes_on_where_an_interrupt_left_it(open_loader):
    """As a notebook's cell that is interrupted, and run again."""
    expected, seen, stops = whole_stream(open_loader()), [], [1, 7, 0, 14, 3, None]
    batches = open_loader()
    for stop in stops:
        count = 0
        try:
            for epoch in batches.epochs():
                for batch in batches:
                    assert epoch == batches.epoch
                    seen.append(digest(batch))
                    count += 1
                    if count == stop:
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            next(iter(batches))  # a look at what comes next, in another cell
    assert seen == expected[: len(seen)] and len(seen) == len(expected)


def test_the_epochs_loop_goes_on_where_a_state_was_taken(open_loader):
    expected, first, resumed = whole_stream(open_loader()), open_loader(), open_loader(workers=1)
    for epoch in first.epochs():
        for i, _ in enumerate(first):
            if (epoch, i) == (2, 3):
                break
        if epoch == 2:
            break
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    left = [digest(batch) for _ in resumed.epochs() for batch in resumed]
    assert left == expected[-len(left) :] and len(left) == len(expected) - position(first.state_dict())
    assert left == [digest(batch) for _ in first.epochs() for batch in first]


def test_a_look_at_the_first_batch_spends_nothing(open_loader):
    expected, batches = whole_stream(open_loader()), open_loader()
    assert [digest(next(iter(batches))) for _ in range(2)] == expected[:1] * 2
    assert whole_stream(batches) == expected
    with pytest.raises(ScheduleError, match="outside"):
        iter(batches)
    assert list(batches.epochs()) == []


def test_an_iteration_that_the_epochs_loop_left_behind_says_so(open_loader):
    batches = open_loader()
    for epoch in batches.epochs():
        old = iter(batches)
        next(old)
        if epoch == 1:
            break
    batches.set_epoch(1)
    with pytest.raises(EngineError, match="newer iteration"):
        next(old)


def test_evaluation_has_no_epochs(open_loader):
    with pytest.raises(ScheduleError, match="train=False has no epochs"):
        open_loader(schedule=None, train=False).epochs()


def test_a_run_is_resumed_as_a_longer_one(open_loader):
    short, long = Schedule.flat("0.5", epochs=3), Schedule.flat("0.5", epochs=5)
    expected, first = whole_stream(open_loader(schedule=long)), open_loader(schedule=short)
    taken = whole_stream(first)
    resumed = open_loader(schedule=long)
    resumed.load_state_dict(first.state_dict())
    assert taken + whole_stream(resumed) == expected
    with pytest.raises(ResumeError, match="schedule 'flat:0.5@5', and this one has 'flat:0.5@3'"):
        open_loader(schedule=short).load_state_dict(resumed.state_dict())


def test_a_repr_says_where_the_loader_is(open_loader, beton):
    batches = open_loader(schedule=Schedule.flat("0.5", epochs=2))
    for _ in zip(range(3), batches, strict=False):
        pass
    assert f"of {beton}: epoch 0 of 0 … 1, batch 3 of 9" in repr(batches)
    assert "engine native on cpu" in repr(batches) and "crop resized (images are not all" in repr(batches)
    batches.set_epoch(1)
    list(batches)
    assert "all 2 epochs done" in repr(batches)
    batches.close()
    assert "closed" in repr(batches)
    assert "evaluation, batch 0 of 5" in repr(open_loader(schedule=None, train=False, batch_size=16))
