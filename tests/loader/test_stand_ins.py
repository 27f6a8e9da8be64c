"""What stands in for a sample that does not decode is told with its own number and label, by every engine."""

import numpy as np
import pytest

from budgetloader import EngineError


@pytest.fixture
def maker():
    pytest.importorskip("ray")
    from service_answers import maker

    return maker


def test_a_sample_of_a_service_that_stands_in_is_told_with_its_label(maker):
    batch = maker(replaced=((1, 40), (7, 3))).next_batch()
    shown = batch.plan.samples.copy()
    shown[[1, 7]] = 40, 3
    np.testing.assert_array_equal(batch.shown, shown)
    np.testing.assert_array_equal(batch.labels.numpy(), shown)  # of this dataset, where a sample's number is its label
    assert batch.replaced == 2


@pytest.mark.parametrize("replaced", [(1, 64), (8, 1)])
def test_a_sample_that_the_dataset_does_not_have_cannot_stand_in(maker, replaced):
    with pytest.raises(EngineError, match="a batch that cannot be"):
        maker(replaced=(replaced,)).next_batch()
