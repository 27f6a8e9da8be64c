"""Trainings that feed losses back, for the tests of selections that learn."""

import json
import threading

import torch

from budgetloader import BudgetLoader, InfoBatch, Schedule

SCHEDULE = Schedule.of([1, "0.5", 1, 1])
COMMON = {"schedule": SCHEDULE, "batch_size": 4, "image_size": 16, "workers": 2, "engine": "synthetic"}


def losses_of(ids, epoch):
    """What a model's losses might be: of every sample another one, falling."""
    return torch.as_tensor(((ids * 37) % 101 + 1) / 101.0 / (epoch + 1), dtype=torch.float32)


class Meeting:
    """How ranks in threads of one process tell each other: `gather` for a number of them."""

    def __init__(self, ranks):
        self.barrier, self.told, self.ranks = threading.Barrier(ranks, timeout=60), {}, ranks

    def of(self, rank):
        def gather(rows):
            self.told[rank] = rows
            self.barrier.wait()
            found = [self.told[r] for r in range(self.ranks)]
            self.barrier.wait()
            return found

        return gather


def trained(path, *, start=None, beside=None, stop=None, selection=None, **options):
    """(epoch, ids, weights) of every batch of a training that feeds losses back; the state after `stop` of them."""
    selection = InfoBatch(annealing=0.25) if selection is None else selection
    found = []
    with BudgetLoader(path, selection=selection, **{**COMMON, **options}) as batches:
        if start is not None:
            batches.load_state_dict(start, selection=beside)
        for epoch in batches.epochs():
            for _, _, ids, weights in batches:
                found.append((epoch, ids.tolist(), weights.tolist()))
                batches.feedback(ids, losses_of(ids, epoch))
                if len(found) == stop:
                    return found, json.loads(json.dumps(batches.state_dict())), batches.selection_state()
        assert all(s.samples_decoded == s.samples_emitted for s in batches.stats)
    return found, None, None


def on_ranks(path, ranks, *, start=None, beside=None, stop=None, **selection):
    """What `trained` gives on each of several ranks, which are threads here."""
    meeting, found, errors = Meeting(ranks), [None] * ranks, []

    def run(rank):
        try:
            own = InfoBatch(annealing=0.25, gather=meeting.of(rank), **selection)
            options = {"rank": rank, "world_size": ranks, "selection": own, "start": start, "beside": beside}
            found[rank] = trained(path, stop=stop, **options)
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors, errors
    return found
