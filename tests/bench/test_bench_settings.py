"""Baselines spend exactly what the setting spends that they are the baseline of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetloader import Schedule, ScheduleError
from budgetloader.bench import cifar_resnet56, imagenet_mnv2
from budgetloader.bench.settings import cells, fewer_full_epochs

SHAPE = {"epochs": 20, "samples": 955, "batch_size": 16}


def made(*names, **shape):
    return {cell.name: cell for cell in cells(names, network=None, **{**SHAPE, **shape})}


def samples_of(cell, *, samples, batch_size, **_):
    budget = cell.schedule.budget(samples, batch_size=batch_size)
    return sum(budget.epoch_samples(epoch) for epoch in range(cell.schedule.epochs))


@pytest.mark.parametrize(("bench", "samples"), [(imagenet_mnv2, 955), (cifar_resnet56, 1440), (cifar_resnet56, 50_000)])
def test_for_every_setting_of_the_benches_its_baselines_spend_as_many_samples(bench, samples):
    preset = bench.PRESETS["cifar" if samples == 50_000 else "quick"]
    shape = {"epochs": preset["epochs"], "samples": samples, "batch_size": preset["batch_size"]}
    for name in (name for name in bench.SETTINGS if ":" not in name):
        kinds = [f"{kind}:{name}" for kind in ("short", "short-linear", "static", "cyclic")]
        table = made(name, *kinds, **shape)
        assert {samples_of(cell, **shape) for cell in table.values()} == {samples_of(table[name], **shape)}
        assert {cell.schedule.budget(samples, batch_size=shape["batch_size"]).total for cell in table.values()} == {
            table[name].schedule.budget(samples, batch_size=shape["batch_size"]).total
        }
        assert {table[kind].baseline_of for kind in kinds} == {name}


@given(
    ratio=st.fractions(min_value="1/10", max_value=1, max_denominator=50),
    samples=st.integers(20, 3000),
    batch_size=st.integers(1, 64),
    epochs=st.integers(1, 12),
)
def test_fewer_full_epochs_take_as_many_samples_for_any_shape(ratio, samples, batch_size, epochs):
    schedule = Schedule.flat(ratio, epochs=epochs)
    try:
        budget = schedule.budget(samples, batch_size=batch_size)
        short = fewer_full_epochs(schedule, samples=samples, batch_size=batch_size)
    except ScheduleError:
        return  # an epoch of no batch
    other = short.budget(samples, batch_size=batch_size)
    assert sum(other.epoch_samples(e) for e in range(short.epochs)) == sum(
        budget.epoch_samples(e) for e in range(epochs)
    )
    assert other.total == budget.total and short.epochs <= epochs + 1


def test_a_short_trainings_learning_rate_is_compressed_and_can_fall_linearly():
    table = made("short:R1_0.618", "short-linear:R1_0.618")
    step, linear = table["short:R1_0.618"], table["short-linear:R1_0.618"]
    assert (step.decay, linear.decay) == (None, "linear") and step.schedule == linear.schedule
    assert len(step.epoch_shares) == step.schedule.epochs == 13
    assert step.epoch_shares[-1] < step.epoch_shares[0]  # the last epoch is a part of one


def test_static_and_cyclic_keep_the_settings_budgets():
    table = made("R2_2", "static:R2_2", "cyclic:R2_2")
    assert {cell.schedule for cell in table.values()} == {table["R2_2"].schedule}
    assert [cell.sampling for cell in table.values()] == ["independent", "static", "cyclic"]


@pytest.mark.parametrize(
    ("name", "why"), [("short", "short:R1_0.618"), ("static:", "static:R1_0.618"), ("cyclic:R9", "'R9'")]
)
def test_a_baseline_says_what_it_lacks(name, why):
    with pytest.raises(ScheduleError, match=why):
        made(name)
