import pytest

from budgetloader import Dataset
from budgetloader.bench.boundary import EPOCHS, SMALL, lost_batches, measure
from budgetloader.bench.settings import cells


def test_what_a_boundary_costs_is_in_batches():
    epochs = [[9.0, 1.0, 1.0, 1.0]] + [[1.5, 1.0, 1.0, 0.2]] * 10  # the first fills the pipeline, the last is short
    found = lost_batches(epochs)
    assert found.value == pytest.approx(0.5) and found.half_width == pytest.approx(0) and found.count == 10


def test_epochs_of_two_batches_have_a_boundary_too():
    assert lost_batches([[1.0, 1.0]] * 3 + [[2.0, 1.0]] * 9).value == pytest.approx(1.0)


class Trainer:
    """Takes every batch, and says so after each."""

    class device:
        type = "cpu"

    epochs = 5

    def __init__(self):
        self.trained = []

    def train_epoch(self, batches, *, epoch, after_step):
        self.trained.append(epoch)
        for _ in batches:
            after_step(None)


def test_every_setting_and_small_epochs_are_measured_with_a_trainer_and_without(beton):
    data, trainer, parts = Dataset(beton), Trainer(), []
    table = cells(["full", "0.5", "short:0.5"], epochs=4, samples=len(data), batch_size=4, network=None)
    rows = measure(data, table, trainer=trainer, batch_size=4, image_size=16, workers=1, done=lambda: parts.append(1))
    names = ["full", "0.5", "short:0.5", *SMALL]
    assert [(row["trainer"], row["epochs_of"]) for row in rows] == [(k, n) for k in EPOCHS for n in names]
    assert len(parts) == len(rows) and all(row["batch_seconds"] > 0 for row in rows)
    assert {row["epochs_of"]: row["batches"] for row in rows}["epochs of 8 batches"] == [8]
    assert max(trainer.trained) < Trainer.epochs  # within the learning rate's schedule
