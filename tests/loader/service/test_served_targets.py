"""Targets over a running service, which knows nothing of them."""

import pytest
import torch

pytest.importorskip("ray")

from services import SAMPLES


def test_targets_are_looked_up_by_the_trainer(served):
    """A field from the file, which is here, too; an array and a function of ids from nowhere else."""
    array = -torch.arange(SAMPLES)
    asked = ("label", array, lambda ids: 2 * ids)
    with (
        served.connect("shared", "0.5@2", targets=asked) as batches,
        served.connect("shared", "0.5@2") as plain,
    ):
        for _ in batches.epochs():
            for (_, (labels, minus, double), ids), (_, expected, _) in zip(batches, plain, strict=True):
                assert torch.equal(labels, expected) and torch.equal(minus, -ids) and torch.equal(double, 2 * ids)
