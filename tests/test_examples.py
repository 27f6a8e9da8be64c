"""Every example trains through the package that it is for, and gets the schedule's ids and counts."""

import pytest
import torch
from conftest import ROOT, damage  # noqa: F401
from torch import nn

import loader
from loader import Schedule

EXAMPLES = ROOT / "examples"
CHANGING = Schedule.of([1, 0.5, 0.25, 0.618])
SIZES = {"batch_size": 8, "image_size": 16}


@pytest.fixture(autouse=True)
def examples_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def taken(monkeypatch):
    """(epoch, ids) of each batch that a trainer took from any BudgetLoader."""
    batches, item = [], loader.BudgetLoader._item

    def recorded(self, batch):
        batches.append((batch.plan.epoch, batch.plan.rows[:, 0].tolist()))
        return item(self, batch)

    monkeypatch.setattr(loader.BudgetLoader, "_item", recorded)
    return batches


@pytest.fixture(scope="module")
def expected(beton):
    """(epoch, ids) of each batch of the schedule."""
    order = loader.BudgetSampler(loader.Dataset(beton), schedule=CHANGING, batch_size=8)
    return [(epoch, ids) for epoch in range(CHANGING.epochs) for ids in order]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 14))


def test_the_expected_counts_are_the_budgets(expected):
    counts = [sum(e == epoch for e, _ in expected) for epoch in range(CHANGING.epochs)]
    assert counts == [9, 4, 2, 5]


def test_plain_pytorch(beton, taken, expected, capsys):
    from train_pytorch import train

    train(network(), str(beton), CHANGING, **SIZES)
    assert taken == expected
    assert capsys.readouterr().out.splitlines()[1] == "epoch 1: 4 batches"


def test_timm(beton, taken, expected, capsys):
    timm = pytest.importorskip("timm")
    from train_timm import train

    model = timm.create_model("test_efficientnet", num_classes=14)
    losses = train(model, str(beton), CHANGING, batch_size=8, image_size=32)
    assert taken == expected and len(losses) == 4
    assert "Train: 2 [2/2]" in capsys.readouterr().out
