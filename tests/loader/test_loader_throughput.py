import pytest

from budgetloader import BudgetLoader, EngineError
from budgetloader.throughput import Rates, Work, measure, measure_apart


@pytest.mark.parametrize(("batches", "expected"), [(2, 2), (None, 9), (50, 9)])
def test_an_epoch_is_as_long_as_asked(beton, monkeypatch, batches, expected):
    taken, item = [], BudgetLoader._item
    monkeypatch.setattr(BudgetLoader, "_item", lambda self, batch: taken.append(batch.plan.epoch) or item(self, batch))
    work = Work(batch_size=8, image_size=16, epochs=1, batches=batches)
    rates = measure(beton, engine="native", work=work)
    assert len(rates.images_per_second) == 1
    assert taken == [0] * expected + [1] * expected


def test_rates_say_their_spread():
    assert str(Rates("native", [1000.0, 3000.0, 2000.0])) == "2,000 images/s (range 2,000, 3 epochs)"
    assert str(Rates("native", [10.0])) == "10 images/s"


@pytest.mark.slow
def test_what_fails_in_the_other_process_is_one_error(tmp_path):
    with pytest.raises(EngineError, match=r"none\.beton does not exist"):
        measure_apart(tmp_path / "none.beton", engine="native", work=Work())
