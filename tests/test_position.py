import pytest

from budgetloader import ResumeError, ScheduleError
from budgetloader.position import Position


def test_the_next_iteration_is_the_next_epoch_unless_it_was_moved():
    here = Position((3, 2), identity={})
    here.begin()
    here.begin()
    assert (here.epoch, len(here)) == (1, 2)
    here.set_epoch(0)
    here.begin()
    assert here.epoch == 0
    here.end()
    assert here.epoch == 1


def test_evaluation_begins_again_and_training_ends():
    again = Position((3,), identity={}, after_last="again")
    again.begin()
    again.step = 3
    assert (again.state_dict()["epoch"], again.state_dict()["step"]) == (0, 0)
    again.end()
    again.begin()
    assert len(again) == 3
    over = Position((3,), identity={})
    over.end()
    assert len(over) == 0
    with pytest.raises(ScheduleError, match="epoch 1 is outside"):
        over.begin()


@pytest.mark.parametrize("wrong", [{"epoch": 2}, {"step": 3}, {"epoch": True}, {"step": "1"}, {"epoch": -1}])
def test_a_state_outside_the_schedule_is_refused(wrong):
    here = Position((3, 3), identity={"seed": 1})
    with pytest.raises(ResumeError, match="outside the schedule"):
        here.load_state_dict({"version": 1, "seed": 1, "epoch": 0, "step": 1, **wrong})
    with pytest.raises(ResumeError, match="seed None.*1"):
        here.load_state_dict({"version": 1})
