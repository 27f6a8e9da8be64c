"""Selections that learn, on several ranks: all choose alike, and any rank's state is the whole."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT
from learning import COMMON, Meeting, losses_of, on_ranks, trained
from torch import distributed

from budgetloader import ArgumentError, BudgetLoader, EngineError, InfoBatch, Schedule, ScheduleError
from budgetloader.bench.fake_cuda import FakeCUDA
from budgetloader.selections import agreement
from budgetloader.shard import Shard


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_choose_alike_and_a_state_resumes_on_another_number_of_them(beton, ranks):
    whole, _, _ = trained(beton)
    parts = on_ranks(beton, ranks)
    for place, (epoch, ids, weights) in enumerate(whole):
        shared = [pair for part in parts for pair in zip(*part[0][place][1:], strict=True)]
        assert {part[0][place][0] for part in parts} == {epoch}
        assert set(shared) == set(zip(ids, weights, strict=True)) and (len(ids) < 4 or [i for i, _ in shared] == ids)
    stopped = on_ranks(beton, ranks, stop=25)
    states = {json.dumps(state, sort_keys=True) for _, state, _ in stopped}
    assert len(states) == 1  # any rank's state is the whole
    taken, _, _ = trained(beton, stop=25)
    assert taken + trained(beton, start=stopped[-1][1])[0] == whole
    _, state, _ = trained(beton, stop=25)
    again = on_ranks(beton, ranks, start=state)
    assert [ids for _, ids, _ in again[0][0]] == [ids for _, ids, _ in parts[0][0][25:]]


def test_ranks_that_learn_from_other_losses_are_told(beton):
    meeting, errors = Meeting(2), []

    def run(rank):
        gather = meeting.of(rank)

        def wrong(rows):  # as if each heard its own losses alone
            found = gather(rows)
            return found if len(rows) == 1 else [rows, rows]

        options = {**COMMON, "rank": rank, "world_size": 2, "schedule": Schedule.full(epochs=2)}
        with BudgetLoader(beton, selection=InfoBatch(gather=wrong), **options) as batches:
            try:
                for epoch in batches.epochs():
                    for _, _, ids, _ in batches:
                        batches.feedback(ids, losses_of(ids, epoch))
            except EngineError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(errors) == 2 and all("other scores for epoch 1 than rank" in error for error in errors)


def test_ranks_that_cannot_tell_each_other_are_refused(beton):
    with pytest.raises(ArgumentError, match=r"InfoBatch on 2 ranks .* gather="):
        BudgetLoader(beton, selection=InfoBatch(), rank=0, world_size=2, **COMMON)
    with pytest.raises(ScheduleError, match="lag 0"):
        BudgetLoader(beton, selection=InfoBatch(lag=0), **COMMON)


GROUP = """
import json, sys
import torch
from torch import distributed
from budgetloader import BudgetLoader, EngineError, InfoBatch, Schedule

path, store, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
distributed.init_process_group("gloo", store=distributed.FileStore(store, 2), rank=rank, world_size=2)
options = {"batch_size": 4, "image_size": 16, "workers": 1, "engine": "synthetic", "schedule": Schedule.full(epochs=3)}
found = []
with BudgetLoader(path, selection=InfoBatch(annealing=0), **options) as batches:
    for epoch in batches.epochs():
        for _, _, ids, weights in batches:
            found.append(ids.tolist())
            batches.feedback(ids, ((ids * 37) % 101 + 1) / 101.0 / (epoch + 1))
with BudgetLoader(path, **options) as batches:
    batches.select(1, [1, 2, 3])
    try:
        batches.select(1, [1, 2, 3 + rank])
    except EngineError as error:
        print(json.dumps([found, batches.state_dict()["chosen"], str(error)]))
distributed.destroy_process_group()
"""


def test_ranks_tell_each_other_on_their_own_gpu_where_the_group_wants_one(monkeypatch):
    def all_gather(parts, own):
        assert str(own.device) == "cuda:1"
        for part in parts:
            part.copy_(own)

    monkeypatch.setattr(distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(distributed, "all_gather", all_gather)
    monkeypatch.setattr(agreement, "_group", lambda: 2)
    with FakeCUDA(devices=2, home={1}) as fake:
        ranks = agreement.Ranks(Shard(1, 2), most=3, device="cuda:1")
        assert ranks.all(np.array([[4, 5]])).tolist() == [[4, 5], [4, 5]]
    assert not fake.order.faults


@pytest.mark.slow
def test_ranks_tell_each_other_through_torch_distributed(beton, tmp_path):
    command = [sys.executable, "-c", GROUP, str(beton), str(tmp_path / "store")]
    ranks = [subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, cwd=ROOT) for rank in range(2)]
    first, second = (json.loads(rank.communicate(timeout=300)[0]) for rank in ranks)
    whole, _, _ = trained(beton, selection=InfoBatch(annealing=0), schedule=Schedule.full(epochs=3))
    for (_, ids, _), one, other in zip(whole, first[0], second[0], strict=True):
        assert one + other == ids or (len(ids) < 4 and set(one + other) == set(ids))
    assert first[1] == second[1] and "other samples for epoch 1 than rank" in first[2] and first[2] != second[2]
