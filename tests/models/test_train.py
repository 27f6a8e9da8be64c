import io
import math

import pytest
import torch
from torch import nn
from trainers import trainer

from budgetloader.bench.fake_cuda import FakeCUDA
from budgetloader.models import CIFAR, CRNET, IMAGENET, EpochUnderWay, Recipe, TopK, Trainer, TrainingError

STEP = Recipe(120, 128, 32, 0.1, decay="step", milestones=(0.5, 0.75))


def batches(count=6, size=8, last=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    sizes = [size] * (count - 1) + [last or size]
    return [(torch.randn(n, 3, 8, 8, generator=g), torch.randint(0, 4, (n,), generator=g)) for n in sizes]


def test_the_imagenet_recipe_is_the_dissertations():
    assert (IMAGENET.epochs, IMAGENET.batch_size, IMAGENET.image_size) == (150, 256, 224)
    assert (IMAGENET.learning_rate, IMAGENET.momentum, IMAGENET.weight_decay) == (0.05, 0.9, 4e-5)


def test_the_cifar_and_crnet_recipes_are_the_dissertations():
    assert (CIFAR.epochs, CIFAR.batch_size, CIFAR.momentum, CIFAR.weight_decay) == (120, 128, 0.9, 1e-4)
    assert [CIFAR.learning_rate_at(e / 120) for e in (0, 59, 60, 89, 90)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001]
    )
    assert (CRNET.epochs, CRNET.batch_size, CRNET.momentum, CRNET.weight_decay) == (160, 256, 0.9, 1e-4)
    assert [CRNET.learning_rate_at(e / 160) for e in (79, 80, 119, 120)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


@pytest.mark.parametrize(("progress", "rate"), [(0, 0.05), (0.5, 0.025), (1, 0)])
def test_cosine_goes_from_the_rate_to_zero(progress, rate):
    assert IMAGENET.learning_rate_at(progress) == pytest.approx(rate)


@pytest.mark.parametrize(("progress", "rate"), [(0, 0.1), (0.499, 0.1), (0.5, 0.01), (0.75, 0.001), (1, 0.001)])
def test_steps_are_at_their_milestones(progress, rate):
    assert STEP.learning_rate_at(progress) == pytest.approx(rate)


def test_progress_outside_0_1_is_refused():
    with pytest.raises(ValueError, match=r"1\.1"):
        IMAGENET.learning_rate_at(1.1)


def test_the_learning_rate_follows_full_epochs_whatever_the_budget():
    """The method: after half the epochs the rate is the same for any number of batches."""
    rates = [trainer(epochs=4).train_epoch(batches(n), epoch=2).learning_rate for n in (1, 1000 // 250, 20)]
    starts = [trainer(epochs=4).recipe.learning_rate_at((2 + (n - 1) / n) / 4) for n in (1, 4, 20)]
    assert rates == starts and rates[0] == pytest.approx(0.025)


def test_epochs_may_take_unequal_shares_of_the_learning_rates_schedule():
    """Of two epochs with shares 1 and 0.5, the second goes from 2/3 of the schedule to its end."""
    t = trainer(epochs=2, epoch_shares=[1, 0.5])
    rates = [t.train_epoch(batches(4), epoch=epoch).learning_rate for epoch in (0, 1)]
    expected = [t.recipe.learning_rate_at(progress) for progress in (0.75 / 1.5, (1 + 0.75 * 0.5) / 1.5)]
    assert rates == pytest.approx(expected)
    equal = trainer(epochs=3, epoch_shares=[2, 2, 2]).train_epoch(batches(4), epoch=1).learning_rate
    assert equal == pytest.approx(trainer(epochs=3).train_epoch(batches(4), epoch=1).learning_rate)


@pytest.mark.parametrize("shares", [[1], [1, 1, 1], [1, 0], [1, -1], [1, float("nan")]])
def test_shares_that_do_not_fit_the_epochs_are_refused(shares):
    with pytest.raises(ValueError, match="epoch_shares"):
        trainer(epochs=2, epoch_shares=shares)


def test_an_epoch_beyond_the_learning_rates_schedule_is_refused():
    with pytest.raises(TrainingError, match="epoch 2 is beyond the learning rate's schedule of 2 epochs"):
        trainer(epochs=2).train_epoch(batches(1), epoch=2)


@pytest.mark.parametrize(("progress", "rate"), [(0, 0.1), (0.25, 0.075), (1, 0)])
def test_linear_decay_ends_at_zero(progress, rate):
    assert Recipe(10, 8, 8, 0.1, decay="linear").learning_rate_at(progress) == pytest.approx(rate)


def test_an_epoch_trains_and_records_itself():
    t = trainer()
    data = batches(6, last=3)
    losses = [t.train_epoch(data, epoch=0).loss for _ in range(10)]
    assert losses[-1] < 0.7 * losses[0]
    record = t.train_epoch(data, epoch=1)
    assert (record.batches, record.images, record.full_batches) == (6, 43, 5)
    assert record.train_seconds == pytest.approx(
        record.first_wait_seconds + record.full_batch_seconds + record.last_batch_seconds
    )
    assert len(record.batch_seconds) == 6
    assert sum(record.batch_seconds) == pytest.approx(record.train_seconds - record.first_wait_seconds, abs=6e-6)
    assert 0 <= record.wait_seconds < record.train_seconds


def test_waiting_for_the_first_batch_is_kept_apart(pause):
    class Slow(list):
        def __iter__(self):
            for i, item in enumerate(super().__iter__()):
                pause(200 if i == 0 else 20)
                yield item

    record = trainer().train_epoch(Slow(batches(4)), epoch=0)
    assert record.first_wait_seconds >= 200 and 60 <= record.wait_seconds < 80
    assert record.full_batch_seconds < record.train_seconds - 199


def test_a_loss_that_is_not_finite_ends_the_training():
    data = batches(2)
    data[1][0].fill_(math.nan)
    with pytest.raises(TrainingError, match="loss is nan"):
        trainer().train_epoch(data, epoch=0)


@pytest.mark.parametrize("given", [0, 2, 4])
def test_a_loader_that_does_not_keep_its_length_is_caught(given):
    class Liar(list):
        def __len__(self):
            return 3

    with pytest.raises(TrainingError, match="said 3 batches"):
        trainer().train_epoch(Liar(batches(given) if given else []), epoch=0)


@pytest.mark.parametrize("label", [4, -1, 1000])
def test_a_label_outside_the_classes_is_named(label):
    data = batches(3)
    data[1][1][2] = label
    with pytest.raises(TrainingError, match=f"step 1: label {label} is outside the network's 4 classes"):
        trainer().train_epoch(data, epoch=0)


def test_an_image_size_that_the_network_does_not_take_is_said():
    data = [(torch.randn(8, 3, 9, 9), torch.zeros(8, dtype=torch.int64))]
    with pytest.raises(TrainingError, match=r"does not take images of shape \(8, 3, 9, 9\)"):
        trainer().train_epoch(data, epoch=0)


def test_scores_of_another_shape_are_said():
    t = Trainer(nn.Conv2d(3, 4, 3), recipe=Recipe(2, 8, 8, 0.05))
    with pytest.raises(TrainingError, match=r"scores of shape \(8, 4, 6, 6\) for 8 images"):
        t.train_epoch(batches(1), epoch=0)


def test_an_epoch_goes_on_from_its_middle():
    """What was done before a checkpoint counts, and the pause between does not."""
    data, states = batches(5), []
    whole = trainer()
    whole.train_epoch(data, epoch=0, after_step=lambda now: states.append(now.state_dict()))
    assert [len(s["laps"]) for s in states] == [1, 2, 3, 4, 5]

    class Rest(list):
        def __len__(self):
            return 5

    begun = EpochUnderWay(0, state=states[2])
    record = trainer().train_epoch(Rest(data[3:]), epoch=0, begun=begun)
    assert record.batches == 5 and record.images == 40
    assert record.train_seconds >= sum(states[2]["laps"]) and record.first_wait_seconds == states[0]["waits"][0]


def test_what_a_checkpoint_takes_is_not_training(pause):
    def slow(now):
        pause(50)
        return now.steps < 4

    seconds = trainer().train_epoch(batches(4), epoch=0, after_step=slow).train_seconds
    assert seconds < 50  # of 200 seconds of pauses


def test_a_saved_trainer_goes_on_bit_for_bit():
    a = trainer()
    a.train_epoch(batches(), epoch=0)
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    b = trainer()
    b.load_state_dict(torch.load(file, weights_only=True))
    for t in (a, b):
        t.train_epoch(batches(seed=1), epoch=1)
    assert all(
        torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    )


def test_topk_by_hand():
    counts = TopK()
    scores = torch.tensor([[9.0, 8, 7, 6, 5, 4], [4, 5, 6, 7, 8, 9]])
    counts.add(scores, torch.tensor([0, 0]))
    counts.add(scores, torch.tensor([4, 5]))
    result = counts.result()
    assert (result.top1, result.top5, result.samples) == (0.5, 0.75, 4)


def test_nothing_to_evaluate_is_said():
    with pytest.raises(ValueError, match="empty"):
        trainer().evaluate([])


def test_evaluation_changes_nothing():
    t = trainer()
    before = {k: v.clone() for k, v in t.model.state_dict().items()}
    assert t.evaluate(batches()).samples == 48
    assert all(torch.equal(before[k], v) for k, v in t.model.state_dict().items())


@pytest.mark.parametrize("bad", [{"amp": "yes"}, {"compile": "maybe"}])
def test_unknown_options_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad.values()))):
        trainer(**bad)


def test_mixed_precision_runs_on_a_cpu_when_asked():
    assert math.isfinite(trainer(amp="on").train_epoch(batches(), epoch=0).loss)


@pytest.mark.parametrize(
    ("capability", "dtype", "scaled"), [((7, 5), torch.float16, True), ((8, 0), torch.bfloat16, False)]
)
def test_mixed_precision_is_what_the_gpu_computes_in_itself(capability, dtype, scaled):
    """torch's own question says yes for a T4, which emulates bfloat16."""
    with FakeCUDA(capability=capability):
        t = trainer(device="cuda:0")
        assert t._amp_dtype is dtype and t._scaler.is_enabled() == scaled


def test_the_clock_and_the_training_are_on_the_trainers_gpu_whichever_is_the_current_one():
    with FakeCUDA(devices=2, home={1}) as fake:
        assert torch.cuda.current_device() == 0
        record = trainer(device="cuda:1").train_epoch(batches(), epoch=0)
        assert record.batches == 6 and all(seconds > 0 for seconds in record.batch_seconds)
    assert not fake.order.faults


def test_cudnn_measures_its_algorithms_unless_it_is_to_be_deterministic(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    with FakeCUDA():
        trainer(device="cuda:0")
        assert not torch.backends.cudnn.benchmark
        torch.backends.cudnn.deterministic = False
        trainer(device="cuda:0")
        assert torch.backends.cudnn.benchmark
