"""What trainers draw, over the service: the private loader's batches, shared by those that draw the same."""

import json

import numpy as np
import pytest

pytest.importorskip("ray")

from learning import losses_of
from service_trainer import digest, options_of, private
from services import SAMPLES

from budgetloader import ArgumentError, BudgetLoader, Dataset, InfoBatch, Schedule
from budgetloader.engines.base import Job, Output, Work
from budgetloader.plans import Planner
from budgetloader.selections import Wanted
from budgetloader.service import maker, protocol
from budgetloader.service.blocks import BLOCK
from budgetloader.service.client import status
from budgetloader.service.connection import BridgeEnded


class Rotated:
    """A selection of one's own, of which an epoch may be longer than the set."""

    size = 2000
    identity = {"rotated": 1}  # noqa: RUF012

    def ids(self, epoch, positions):
        return (positions * 7 + epoch) % SAMPLES


KINDS = {
    "subset": {"samples": list(range(100, 900))},
    "weights": {"weights": np.arange(SAMPLES) % 5},
    "balanced subset": {"weights": "balanced", "samples": np.arange(SAMPLES) % 2 == 0},
    "own": {"selection": Rotated()},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_selections_stream_is_the_private_loaders(served, kind):
    schedule = "of:1,0.4,0.7"
    options = {**KINDS[kind], "batch_size": 40, "seed": 21}
    expected = private(served.data, schedule, **options)
    assert served.hashes("shared", schedule, **options) == expected
    halves = [served.hashes("shared", schedule, rank=r, world_size=2, **options) for r in range(2)]
    assert halves == [private(served.data, schedule, rank=r, world_size=2, **options) for r in range(2)]


class _Forgetful:
    """A bridge that ends instead of its third answer; what it is told, in order."""

    given_up = False

    class entry:
        name, pid, alive = "fake", 1, False

    def __init__(self, index):
        self.index, self.told, self.asked = index, [], 0
        self.index.store_wait_seconds = 0.0

    def send(self, request, descriptors):
        self.told.append(request)

    def answer(self, expected):
        self.asked += 1
        if self.asked == 3:
            raise BridgeEnded
        return protocol.BatchAnswer(decoded=0, decode_busy_seconds=0.0, copied=0), []

    def start(self):
        self.told.append("started")
        return None, []

    def close(self):
        pass


def test_a_bridge_that_is_started_again_is_told_anew_what_its_blocks_consist_of(data, monkeypatch):
    monkeypatch.setattr(maker, "check_alive", lambda entry: None)
    dataset, schedule = Dataset(data), Schedule.full(epochs=1)
    dataset.capacity_bytes = 1 << 30
    wanted = Wanted(weights=np.arange(SAMPLES) % 5)
    planner = Planner(dataset, schedule=schedule, batch_size=48, seed=0, wanted=wanted)
    job = Job(dataset, Output(16, "uint8"), 48, 1, 1, "raise", planner.replacement)
    bridge = _Forgetful(dataset)
    made = maker.BridgeMaker(job, Work(), bridge, budget=planner.budget, seed=0)
    made.follow(planner.selection)
    for step in range(4):
        plan = planner.plan(0, step)
        made.begin(plan)
        made.finish(plan)
    again = bridge.told.index("started")
    for part in (bridge.told[:again], bridge.told[again:]):
        known = set()
        for message in part:
            if isinstance(message, protocol.BlockIds):
                known.add((message.epoch, message.number))
                start = message.number * BLOCK
                expected = planner.selection.ids(0, np.arange(start, min(start + BLOCK, SAMPLES)))
                assert message.samples == tuple(expected.tolist())
            elif isinstance(message, protocol.BatchRequest):
                assert {(message.epoch, start // BLOCK) for start, _ in message.spans} <= known
        assert len(known) == 6  # all that the set has


def test_trainers_that_draw_the_same_samples_share_and_others_do_not(served):
    before = status("shared").decoded
    served.hashes("shared", "full@1", seed=31, samples=list(range(500)))
    first = status("shared").decoded
    served.hashes("shared", "0.5@1", seed=31, samples=np.arange(SAMPLES) < 500)
    assert (first - before, status("shared").decoded - first) == (500, 0)
    served.hashes("shared", "full@1", seed=31, samples=list(range(1, 501)))
    assert status("shared").decoded - first == 500


def test_an_epoch_with_samples_left_out_is_made_of_the_whole_sets_blocks(served):
    some = np.arange(SAMPLES) % 3 > 0

    def selected(batches):
        with batches:
            batches.select(1, some)
            return [(epoch, digest(*batch)) for epoch in batches.epochs() for batch in batches]

    options = options_of("full@2", seed=41)
    expected = selected(BudgetLoader(served.data, engine="native", **options))
    served.hashes("shared", "full@2", seed=41)
    before = status("shared").decoded
    assert selected(served.connect("shared", "full@2", seed=41)) == expected
    assert status("shared").decoded == before  # all of it was there


def infobatch(batches, *, stop=None):
    found = []
    with batches:
        for epoch in batches.epochs():
            for images, labels, ids, weights in batches:
                found.append((epoch, digest(images, labels, ids), weights.tolist()))
                batches.feedback(ids, losses_of(ids, epoch))
                if len(found) == stop:
                    return found, json.loads(json.dumps(batches.state_dict()))
    return found, None


@pytest.mark.parametrize("lag", [1, 2])
def test_infobatch_over_the_service_is_infobatch_and_resumes(served, lag):
    options = {"seed": 51, "selection": InfoBatch(annealing=0, lag=lag), "batch_size": 30}
    private_options = options_of("full@4", **options)
    expected, _ = infobatch(BudgetLoader(served.data, engine="native", **private_options))
    assert infobatch(served.connect("shared", "full@4", **options))[0] == expected
    taken, state = infobatch(served.connect("shared", "full@4", **options), stop=70)
    again = served.connect("shared", "full@4", **options)
    again.load_state_dict(state)
    assert taken + infobatch(again)[0] == expected


def test_selections_and_changes_of_an_epoch_under_way(served):
    """The next epoch grows and shrinks while its blocks are asked for."""
    options = options_of("full@3", seed=61, batch_size=64)

    def run(batches):
        found = []
        with batches:
            for epoch in batches.epochs():
                for step, batch in enumerate(batches):
                    found.append((epoch, digest(*batch)))
                    if epoch + 1 < 3 and step % 5 == 4:
                        batches.select(epoch + 1, np.arange(40 * step + 7))
        return found

    assert run(served.connect("shared", "full@3", seed=61, batch_size=64)) == run(
        BudgetLoader(served.data, engine="native", **options)
    )


@pytest.mark.parametrize("kind", ["subset", "weights", "own"])
def test_stand_ins_that_a_trainer_does_not_draw_are_refused(served, kind):
    with pytest.raises(ArgumentError, match="stand in for others are of the whole set"):
        served.connect("shared", "full@1", on_corrupt="replace", **KINDS[kind])
    refused = pytest.raises(ArgumentError, match="select: the samples that stand in")
    with served.connect("shared", "full@1", on_corrupt="replace") as batches, refused:
        batches.select(0, [1, 2, 3])


@pytest.mark.parametrize(
    "message", [protocol.BlockIds(0, 0, ()), protocol.BlockIds(0, 0, (50,)), protocol.BlockIds(0, 0, (1,) * 257)]
)
def test_blocks_of_samples_that_cannot_be_are_refused(message):
    with pytest.raises(protocol.ProtocolError, match="block 0 is of"):
        message.check(samples=50)
    protocol.BlockIds(1, 2, (49, 49)).check(samples=50)
