"""InfoBatch: what it leaves out, what it scales up, and a real training that is killed."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from budgetloader import InfoBatch, ScheduleError


def test_the_weighted_mean_is_that_of_the_whole_set():
    """Over many seeds, what is kept times its weight is expected to be the whole."""
    values, scores = np.arange(200.0), np.arange(200, dtype=np.float32)
    sums = []
    for seed in range(400):
        choice = InfoBatch(prune_ratio=0.7).choose(1, scores, epochs=10, seed=seed)
        sums.append((values * choice.weights)[choice.kept].sum())
    expected = values.sum()
    deviation = np.sqrt((values[:100] ** 2).sum() * (1 / 0.3 - 1) / len(sums))
    assert abs(np.mean(sums) - expected) < 5 * deviation


def test_pruning_hits_every_well_learnt_sample_alike_over_100_seeds():
    scores = np.r_[np.zeros(50), np.ones(50)].astype(np.float32)
    hits = sum(~InfoBatch(prune_ratio=0.3).choose(2, scores, epochs=10, seed=seed).kept for seed in range(100))
    assert not hits[50:].any()
    chi_square = ((hits[:50] - 30) ** 2 / (100 * 0.3 * 0.7)).sum()  # 50 degrees of freedom
    assert abs(chi_square - 50) < 5 * np.sqrt(100)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: InfoBatch(prune_ratio=1), "prune_ratio 1: give"),
        (lambda: InfoBatch(annealing=-0.1), "annealing -0.1: give"),
        (lambda: InfoBatch(prune_ratio="a"), "prune_ratio 'a'"),
    ],
)
def test_ratios_that_are_none_are_refused(make, message):
    with pytest.raises(ScheduleError, match=message):
        make()


# A real, tiny training


TRAINING = """
import json, os, signal, sys
import numpy as np, torch
from budgetloader import BudgetLoader, InfoBatch, Schedule

path, save, kill_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 14))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
options = {"schedule": Schedule.full(epochs=6), "batch_size": 10, "image_size": 16, "workers": 1, "engine": "native"}
steps = 0
with BudgetLoader(path, selection=InfoBatch(annealing=0.2), **options) as batches:
    if os.path.exists(save):
        saved = torch.load(save, weights_only=False)
        model.load_state_dict(saved["model"])
        batches.load_state_dict(saved["loader"], selection=saved["selection"])
        steps = saved["steps"]
    for epoch in batches.epochs():
        for images, labels, ids, weights in batches:
            losses = torch.nn.functional.cross_entropy(model(images), labels, reduction="none")
            optimizer.zero_grad()
            (losses * weights).mean().backward()
            optimizer.step()
            batches.feedback(ids, losses)
            steps += 1
            print(json.dumps([steps, epoch, ids.tolist(), weights.tolist(), losses.sum().item()]), flush=True)
            state = {"model": model.state_dict(), "loader": batches.state_dict(), "steps": steps}
            state["selection"] = batches.selection_state()
            torch.save(state, save + ".new")
            os.replace(save + ".new", save)
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
"""


def train(path, save, kill_at):
    command = [sys.executable, "-c", TRAINING, str(path), str(save), str(kill_at)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ)
    assert result.returncode == (-signal.SIGKILL if kill_at else 0), result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.long
def test_infobatch_trains_and_goes_on_after_sigkill_as_if_nothing_had_happened(beton, tmp_path):
    whole = train(beton, tmp_path / "whole", 0)
    killed = train(beton, tmp_path / "killed", 10) + train(beton, tmp_path / "killed", 0)
    assert killed == whole
    per_epoch = [sum(len(ids) for _, e, ids, _, _ in whole if e == epoch) for epoch in range(6)]
    assert per_epoch[0] == per_epoch[4] == per_epoch[5] == 70 and max(per_epoch[1:4]) < 70
    loss = [sum(value for _, e, _, _, value in whole if e == epoch) for epoch in (0, 5)]
    assert loss[1] < 0.9 * loss[0]  # it learns
