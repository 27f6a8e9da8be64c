import pytest

from budgetloader import ScheduleError
from budgetloader.shard import Shard, local_shard


def test_without_distributed_it_is_the_whole():
    assert local_shard(None, None) == Shard(0, 1)
    assert local_shard(1, 4) == Shard(1, 4)


@pytest.mark.parametrize("given", [(1, None), (None, 2), (2, 2), (-1, 2), (0, 0)])
def test_half_a_rank_or_one_outside_is_refused(given):
    with pytest.raises(ScheduleError, match="rank"):
        local_shard(*given)
