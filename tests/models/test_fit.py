import itertools
import json
import time

import pytest
import torch
from torch import nn

from budgetloader.models import CheckpointError, Recipe, Trainer, TrainingError, fit

EPOCHS = 4


def network(dropout=0.3):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * 36, 4))
    return Trainer(nn.Sequential(*layers), recipe=Recipe(EPOCHS, 8, 8, 0.05))


class Batches:
    """A loader of changing lengths that can say where it is; batches are functions of (epoch, step)."""

    lengths = (5, 3, 5, 4)

    def __init__(self):
        self.epoch, self.step, self.handed_out = 0, 0, []

    def __len__(self):
        return self.lengths[self.epoch]

    def set_epoch(self, epoch):
        if epoch != self.epoch or self.step == len(self):
            self.epoch, self.step = epoch, 0

    def __iter__(self):
        while self.step < self.lengths[self.epoch]:
            g = torch.Generator().manual_seed(100 * self.epoch + self.step)
            self.handed_out.append((self.epoch, self.step))
            self.step += 1
            yield torch.randn(8, 3, 8, 8, generator=g), torch.randint(0, 4, (8,), generator=g)

    def state_dict(self):
        return {"epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state):
        self.epoch, self.step = state["epoch"], state["step"]


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.state_dict().values()])


@pytest.fixture(scope="module")
def reference():
    trainer = network()
    fit(trainer, Batches(), epochs=EPOCHS)
    return weights(trainer)


@pytest.mark.parametrize("stop_at", [1, 4, 5, 7, 8, 9, 16])
def test_a_training_that_was_stopped_anywhere_ends_with_the_same_bits(tmp_path, reference, stop_at):
    path, asked = tmp_path / "c.pt", []
    first = Batches()
    history = fit(
        network(), first, epochs=EPOCHS, checkpoint=path, stop=lambda: asked.append(1) or len(asked) == stop_at
    )
    torch.rand(7)  # the process that goes on has drawn other numbers
    trainer, second = network(), Batches()
    resumed = fit(trainer, second, epochs=EPOCHS, checkpoint=path)
    assert torch.equal(weights(trainer), reference)
    assert [r.batches for r in resumed.records] == [5, 3, 5, 4] and not resumed.stopped
    everything = [(e, s) for e, n in enumerate(Batches.lengths) for s in range(n)]
    if history.stopped:
        assert first.handed_out + second.handed_out == everything
    else:  # at the end of an epoch there is nothing to stop in the middle of
        assert stop_at in (5, 8)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_checkpoint_of_a_killed_training_is_as_good(tmp_path, reference, steps):
    class Killed(Exception):
        pass

    def kill(now):
        if (now.epoch, now.steps) == (2, 4):
            raise Killed

    path = tmp_path / "c.pt"
    with pytest.raises(Killed):
        fit(network(), Batches(), epochs=EPOCHS, checkpoint=path, checkpoint_steps=steps, after_step=kill)
    trainer, batches = network(), Batches()
    fit(trainer, batches, epochs=EPOCHS, checkpoint=path, checkpoint_steps=steps)
    assert torch.equal(weights(trainer), reference)
    assert batches.handed_out[0] == (2, 3 // steps * steps)


def test_batches_without_a_state_resume_at_their_epoch(tmp_path):
    data = [(torch.randn(8, 3, 8, 8), torch.randint(0, 4, (8,))) for _ in range(3)]
    whole = network()
    fit(whole, data, epochs=EPOCHS)
    asked = []
    path = tmp_path / "c.pt"
    history = fit(network(), data, epochs=EPOCHS, checkpoint=path, stop=lambda: asked.append(1) or len(asked) == 5)
    assert history.stopped and len(history.records) == 1
    trainer = network()
    fit(trainer, data, epochs=EPOCHS, checkpoint=path)
    assert torch.equal(weights(trainer), weights(whole))


def test_the_log_has_each_epoch_once_also_after_a_kill(tmp_path):
    path, log = tmp_path / "c.pt", tmp_path / "logs" / "log.jsonl"
    data = [(torch.randn(8, 3, 8, 8), torch.randint(0, 4, (8,)))]
    fit(network(), Batches(), epochs=EPOCHS, checkpoint=path, log=log, evaluation=data, eval_every=2)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert [row["top1"] is not None for row in rows] == [False, True, False, True]
    assert all(row["images_per_second"] > 0 for row in rows)
    log.write_text(log.read_text() + '{"epoch": 4, "half')  # logged behind the checkpoint, or half a line
    fit(network(), Batches(), epochs=EPOCHS, checkpoint=path, log=log)
    assert [json.loads(line) for line in log.read_text().splitlines()] == rows


def test_tensorboard_has_the_same_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = fit(network(), Batches(), epochs=EPOCHS, tensorboard=tmp_path)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([r.loss for r in history.records])


def test_checkpoints_take_no_training_time(tmp_path, monkeypatch, pause):
    from budgetloader.models import checkpoint

    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a: (pause(100), save(*a)))
    history = fit(network(), Batches(), epochs=EPOCHS, checkpoint=tmp_path / "c.pt", checkpoint_steps=1)
    assert history.other_seconds > 1500 and sum(r.train_seconds for r in history.records) < 100


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(tmp_path):
    class Sick(Batches):
        def __iter__(self):
            for images, labels in super().__iter__():
                yield (images * float("nan") if self.epoch == 2 and self.step == 2 else images), labels

    path = tmp_path / "c.pt"
    with pytest.raises(TrainingError, match="epoch 2, step 2: the loss is nan"):
        fit(network(), Sick(), epochs=EPOCHS, checkpoint=path, checkpoint_steps=1)
    trainer = network()
    history = fit(trainer, Batches(), epochs=EPOCHS, checkpoint=path)
    assert len(history.records) == 4 and weights(trainer).isfinite().all()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    trainer = network()
    with torch.no_grad():
        trainer.model[0].weight[0, 0, 0, 0] = float("inf")
    with pytest.raises(TrainingError, match="weight is not finite"):
        trainer.state_dict()


def test_a_full_disk_at_checkpoint_time_is_one_error_and_leaves_the_last(tmp_path):
    path = tmp_path / "c.pt"
    fit(network(), Batches(), epochs=EPOCHS, checkpoint=path, stop=lambda: True)
    (tmp_path / "c.pt.partial").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="No space left.*still holds"):
        fit(network(), Batches(), epochs=EPOCHS, checkpoint=path)
    assert not fit(network(), Batches(), epochs=EPOCHS, checkpoint=path).stopped


@pytest.mark.parametrize(
    ("other", "why"),
    [({"epochs": EPOCHS - 1}, "epochs 4, and this one has 3"), ({"epochs": EPOCHS, "seed": 1}, "seed 0")],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, other, why):
    path = tmp_path / "c.pt"
    fit(network(), Batches(), epochs=EPOCHS, checkpoint=path)
    with pytest.raises(CheckpointError, match=why):
        fit(network(), Batches(), checkpoint=path, **other)


@pytest.mark.parametrize("stop_at", [None, 7])
def test_a_run_goes_on_as_one_of_more_epochs(tmp_path, stop_at):
    path, asked, batches = tmp_path / "c.pt", [], Batches()
    fit(network(), batches, epochs=2, checkpoint=path, stop=lambda: asked.append(1) or len(asked) == stop_at)
    whole, rest = network(), Batches()
    history = fit(whole, rest, epochs=EPOCHS, checkpoint=path)
    assert history.earlier_epochs == 2 and [r.batches for r in history.records] == [5, 3, 5, 4]
    assert batches.handed_out + rest.handed_out == [(e, s) for e, n in enumerate(Batches.lengths) for s in range(n)]
    assert history.records[-1].learning_rate < history.records[0].learning_rate
    assert fit(network(), Batches(), epochs=EPOCHS, checkpoint=path).earlier_epochs is None  # it is one of four now


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    path = tmp_path / "c.pt"
    fit(network(), Batches(), epochs=EPOCHS, checkpoint=path)
    other = Trainer(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), recipe=Recipe(EPOCHS, 8, 8, 0.05))
    with pytest.raises(CheckpointError, match="another network"):
        fit(other, Batches(), epochs=EPOCHS, checkpoint=path)


def test_checkpoints_in_mid_epoch_need_batches_that_know_where_they_are(tmp_path):
    with pytest.raises(CheckpointError, match="state_dict"):
        fit(network(), [1], epochs=EPOCHS, checkpoint=tmp_path / "c.pt", checkpoint_steps=1)


def test_a_display_that_takes_time_is_not_training_time(monkeypatch):
    now, ticks = [0.0], itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: now[0] + 1e-6 * next(ticks))

    def show(_):
        now[0] += 100.0
        return True

    history = fit(network(), Batches(), epochs=1, after_step=show)
    assert 0 < history.records[0].train_seconds < 1.0


def test_what_a_checkpoint_holds_is_told_before_anything_is_trained(tmp_path):
    path, asked, told = tmp_path / "c.pt", [], []
    fit(network(), Batches(), epochs=EPOCHS, checkpoint=path, stop=lambda: asked.append(1) or len(asked) == 7)
    batches = Batches()
    load = lambda history: told.append((len(history.records), list(batches.handed_out)))  # noqa: E731
    fit(network(), batches, epochs=EPOCHS, checkpoint=path, after_load=load)
    assert told == [(1, [])]
