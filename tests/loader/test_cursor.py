import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import ResumeError, Schedule, ScheduleError
from budgetloader.cursor import Cursor


def take(cursor, batches):
    """Iterate as a loader does, and leave the iteration after some batches; those that were taken."""
    cursor.begin()
    taken = []
    while cursor.step < len(cursor):
        if len(taken) == batches:
            return taken
        taken.append((cursor.epoch, cursor.step))
        cursor.step += 1
    cursor.end()
    return taken


ALL = 99


def test_the_next_iteration_is_the_next_epoch_unless_it_was_moved():
    here = Cursor((3, 2), identity={})
    assert take(here, 2) == [(0, 0), (0, 1)]
    here.begin()
    assert (here.epoch, len(here)) == (1, 2)
    here.set_epoch(0)
    here.begin()
    assert here.epoch == 0
    here.end()
    assert here.epoch == 1


def test_a_look_at_a_batch_does_not_spend_the_epoch():
    here = Cursor((3, 2), identity={})
    for _ in range(3):
        assert take(here, 1) == [(0, 0)]
    assert here.state_dict()["step"] == 1  # it was handed out all the same
    assert take(here, ALL) == [(0, 0), (0, 1), (0, 2)]
    assert take(here, 1) == [(1, 0)]
    assert take(here, ALL) == [(1, 0), (1, 1)]


def test_a_look_in_the_middle_of_an_epoch_that_was_resumed_leaves_it_there():
    here = Cursor((4, 2), identity={})
    here.load_state_dict({"version": 1, "epoch": 0, "step": 2})
    assert take(here, 1) == [(0, 2)]
    here.set_epoch(0)
    assert take(here, ALL) == [(0, 2), (0, 3)]


def test_an_iteration_that_was_interrupted_before_its_first_batch_begins_again():
    here = Cursor((3, 2), identity={})
    assert take(here, 0) == []
    assert take(here, ALL) == [(0, 0), (0, 1), (0, 2)]


def test_a_sampler_whose_batches_are_not_counted_has_no_looks():
    here = Cursor((3, 2), identity={})
    here.begin(counted=False)
    here.begin(counted=False)
    assert here.epoch == 1


def test_the_epochs_are_those_that_are_left_and_each_is_iterated_over():
    here = Cursor((3, 2, 1), identity={})
    seen = [(epoch, take(here, ALL)) for epoch in here.epochs()]
    assert seen == [(0, [(0, 0), (0, 1), (0, 2)]), (1, [(1, 0), (1, 1)]), (2, [(2, 0)])]
    assert list(here.epochs()) == [] and len(here) == 0
    here.set_epoch(1)
    assert list(here.epochs()) == [1, 2]


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_the_epochs_go_on_where_an_interrupt_left_them(taken):
    """Also where one batch was taken, or all of them, and where a look was taken in between."""
    for looks in (0, 1, 2):
        here = Cursor((3, 2), identity={})
        interrupted = here.epochs()
        assert next(interrupted) == 0
        first = take_and_be_interrupted(here, taken)
        for _ in range(looks):
            take(here, 1)
        rest = [batch for _ in here.epochs() for batch in take(here, ALL)]
        assert first + rest == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def take_and_be_interrupted(cursor, batches):
    cursor.begin()
    taken = []
    for _ in range(batches):
        taken.append((cursor.epoch, cursor.step))
        cursor.step += 1
    return taken


def test_where_an_epochs_loop_is_left_early_the_rest_of_it_is_skipped():
    here = Cursor((3, 3, 3), identity={})
    assert [(epoch, take(here, 2)) for epoch in here.epochs()] == [(e, [(e, 0), (e, 1)]) for e in range(3)]


def test_the_epochs_begin_where_a_state_was_taken():
    here = Cursor((3, 2), identity={})
    here.load_state_dict({"version": 1, "epoch": 0, "step": 2})
    assert [(epoch, take(here, ALL)) for epoch in here.epochs()] == [(0, [(0, 2)]), (1, [(1, 0), (1, 1)])]


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(0, 5), max_size=12))
def test_with_any_interrupts_the_epochs_give_every_batch_once(steps, interrupts):
    here, seen = Cursor(tuple(steps), identity={}), []
    for interrupt in itertools.chain(interrupts, itertools.repeat(ALL)):
        left = interrupt
        for _ in here.epochs():
            here.begin()
            while here.step < len(here) and left:
                seen.append((here.epoch, here.step))
                here.step += 1
                left -= 1
            if not left:
                break
            here.end()
        else:
            break
    assert seen == [(epoch, step) for epoch, count in enumerate(steps) for step in range(count)]


def test_evaluation_begins_again_and_training_ends():
    again = Cursor((3,), identity={}, after_last="again")
    again.begin()
    again.step = 3
    assert (again.state_dict()["epoch"], again.state_dict()["step"]) == (0, 0)
    again.end()
    again.begin()
    assert len(again) == 3
    over = Cursor((3,), identity={})
    over.end()
    assert len(over) == 0
    with pytest.raises(ScheduleError, match="epoch 1 is outside"):
        over.begin()


@pytest.mark.parametrize("wrong", [{"epoch": 2}, {"step": 3}, {"epoch": True}, {"step": "1"}, {"epoch": -1}])
def test_a_state_outside_the_schedule_is_refused(wrong):
    here = Cursor((3, 3), identity={"seed": 1})
    with pytest.raises(ResumeError, match="outside the schedule"):
        here.load_state_dict({"version": 1, "seed": 1, "epoch": 0, "step": 1, **wrong})
    with pytest.raises(ResumeError, match="seed None.*1"):
        here.load_state_dict({"version": 1})


def cursor(schedule, **identity):
    steps = schedule.budget(40, batch_size=4).batches
    return Cursor(steps, identity={"schedule": str(schedule), "sampling": "independent", **identity}, schedule=schedule)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (Schedule.flat("0.5", epochs=3), Schedule.flat("0.5", epochs=10)),
        (Schedule.flat("0.5", epochs=3), Schedule.of(["1/2", 0.5, "0.5", 1, "0.1"])),
        (Schedule.of(["1", "0.5", "0.3"]), Schedule.of(["1", "0.5", "0.3", "0.2"])),
        (Schedule.paper("R1_0.8", epochs=2), Schedule.flat("0.8", epochs=2)),
    ],
)
def test_a_state_is_resumed_by_a_longer_schedule_that_begins_with_its_ratios(earlier, later):
    before, after = cursor(earlier), cursor(later)
    for epoch, step in ((0, 0), (1, 1), (earlier.epochs, 0)):
        after.load_state_dict(before.state_dict(at=(epoch, step)))
        assert (after.epoch, after.step) == (epoch, step)


@pytest.mark.parametrize(
    ("earlier", "later", "identity"),
    [
        (Schedule.flat("0.5", epochs=3), Schedule.flat("0.6", epochs=10), {}),
        (Schedule.flat("0.5", epochs=10), Schedule.flat("0.5", epochs=3), {}),  # it would end too early
        (Schedule.of(["0.5", "0.5", "0.6"]), Schedule.flat("0.5", epochs=10), {}),  # though epoch 2 may not have begun
        (Schedule.flat("0.5", epochs=3), Schedule.of(["0.5"] * 3 + [1]), {"sampling": "static"}),  # another draw
    ],
)
def test_a_state_of_another_schedule_is_refused(earlier, later, identity):
    state = cursor(earlier, **identity).state_dict()
    with pytest.raises(ResumeError, match="schedule .*longer schedule that begins with all of its ratios"):
        cursor(later, **identity).load_state_dict(state)


@pytest.mark.parametrize("text", ["0.5@99999999999999", "of:1*999999999@3", "warp@2", "", None, 3, "0.5@x", "@1"])
def test_a_schedule_of_a_strangers_state_is_refused_at_once(text):
    here = cursor(Schedule.flat("0.5", epochs=3))
    with pytest.raises(ResumeError, match="schedule"):
        here.load_state_dict({**here.state_dict(), "schedule": text})
