"""Orders in blocks, read a pool at a time: few large requests, the same stream, and nothing is held too long."""

import hashlib

import numpy as np
import pytest
from stores import nothing_is_held

from budgetloader import BudgetLoader, Dataset, Schedule, StorageError
from budgetloader.bench.stores import Trouble
from budgetloader.plans import Planner, stream
from budgetloader.selections import Wanted
from budgetloader.storage.ahead import fetched
from budgetloader.storage.client import Patience
from budgetloader.storage.dataset import RemoteDataset
from budgetloader.storage.pools import Pools

SHAPE = {
    "schedule": Schedule.flat("0.618", epochs=4),
    "batch_size": 4,
    "image_size": 16,
    "workers": 2,
    "dtype": "uint8",
}
BLOCKS = "blocks:5/20"


@pytest.fixture
def far(proxy):
    return RemoteDataset(f"{proxy.url}/train.beton")


def stream_of(path, *, state=None, stop=None, **options):
    """A hash of all ids, labels and pixels; ids by batch, and the state behind the last."""
    found, ids_of = hashlib.sha256(), []
    with BudgetLoader(path, with_ids=True, **{**SHAPE, "sampling": BLOCKS, **options}) as batches:
        if state is not None:
            batches.load_state_dict(state)
        for _ in batches.epochs():
            for images, labels, ids in batches:
                for tensor in (images.contiguous(), labels, ids):
                    found.update(tensor.numpy().tobytes())
                ids_of.append(ids.tolist())
                if len(ids_of) == stop:
                    return found.hexdigest(), ids_of, batches.state_dict()
    return found.hexdigest(), ids_of, None


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "dali", "ffcv", "synthetic"])
def test_the_stream_is_that_of_the_local_file_on_every_engine(far, beton, engine):
    pytest.importorskip({"dali": "nvidia.dali", "ffcv": "ffcv"}.get(engine, "numpy"))
    assert stream_of(far, engine=engine)[0] == stream_of(beton, engine=engine)[0]
    assert nothing_is_held(far)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"views": 2}, {"samples": list(range(3, 60, 2))}, {"rank": 1, "world_size": 2}]
)
def test_views_subsets_and_ranks_go_with_blocks(far, beton, options):
    assert stream_of(far, **options)[0] == stream_of(beton, **options)[0]
    assert nothing_is_held(far)


@pytest.mark.slow
def test_it_goes_with_a_cache_that_is_smaller_than_the_set(web, beton, tmp_path):
    for folder, size in (("whole", None), ("small", 3 << 20)):
        for _ in range(2):
            far = RemoteDataset(f"{web.url}/train.beton", cache=tmp_path / folder, cache_bytes=size)
            assert stream_of(far)[0] == stream_of(beton)[0]
            far.close()
    assert far.traffic.evicted > 0


def test_several_files_of_which_some_are_here_are_one_set(web, beton, small_beton):
    web.files["small.beton"] = small_beton.read_bytes()
    mixed = [str(beton), f"{web.url}/small.beton"]
    assert stream_of(mixed)[0] == stream_of([beton, small_beton])[0]


def test_a_state_resumes_in_the_middle_of_a_pool(far, beton):
    _, whole, _ = stream_of(beton)
    _, taken, state = stream_of(far, stop=7)
    assert nothing_is_held(far), "what an iteration that was left had asked for is let go"
    assert taken + stream_of(far, state=state)[1] == whole


def test_a_pool_is_a_few_requests(far, beton):
    """70 samples in blocks of 10, all of them drawn: a request for each block, or for blocks that stand together."""
    opened = far.traffic
    options = {"schedule": Schedule.full(epochs=1), "sampling": "blocks:10/40", "batch_size": 5}
    stream_of(far, **options)
    requests = far.traffic.requests - opened.requests
    assert requests <= 8 and far.traffic.misses == 70 and far.traffic.hits == 0
    assert far.traffic.fetched_bytes - opened.fetched_bytes < 1.01 * Dataset(beton).sizes.sum() + 4400 * 70


def test_nothing_but_the_samples_of_the_budget_is_fetched(far, beton):
    opened = far.traffic
    _, ids, _ = stream_of(far, schedule=Schedule.flat("0.3", epochs=1))
    needed = int(Dataset(beton).sizes[np.concatenate(ids)].sum())
    assert needed <= far.traffic.fetched_bytes - opened.fetched_bytes <= needed + 4400 * len(ids) * 4


def pools_of(far, *, ratio="1", epochs=3, sampling=BLOCKS):
    planner = Planner(far, schedule=Schedule.flat(ratio, epochs=epochs), batch_size=4, seed=0, wanted=Wanted(sampling))
    ends = lambda positions: planner.selection.blocks.pool_spans(positions)[1]  # noqa: E731
    plans = list(stream(planner, epoch=0, step=0))
    return plans, Pools([(0, far)], iter(plans), ends=ends, most_bytes=1 << 40)


@pytest.mark.parametrize("ratio", ["1", "0.3", "0.618"])
def test_no_more_than_the_next_pool_is_held_and_each_sample_until_its_plan(far, ratio):
    plans, pools = pools_of(far, ratio=ratio)
    pool_bytes = 0
    for plan in plans:
        assert next(pools) is plan
        own = np.unique(plan.samples)
        assert (far._ledger._pins[own] >= 1).all(), "all its samples were asked for"
        pools.begun(plan)
        pool_bytes = max(pool_bytes, pools._largest)
        pinned = int(far.sizes[far._ledger._pins > 0].sum())
        assert pinned <= 1.25 * pool_bytes + 5 * far.sizes.max() + (8 << 20)
    assert next(pools, None) is None and nothing_is_held(far) and not pools._pools


def test_what_was_held_is_let_go_with_the_iteration(far):
    _, pools = pools_of(far)
    next(pools)
    assert far._ledger._pins.any()
    del pools
    assert nothing_is_held(far)


@pytest.mark.parametrize("taken", [7, 12, 17])
def test_plans_before_a_cut_still_come(far, taken):
    plans, pools = pools_of(far)
    for plan in plans[:taken]:
        assert next(pools) is plan
        pools.begun(plan)
    assert pools.cut(1)
    rest = []
    for plan in pools:
        pools.begun(plan)
        rest.append(plan)
    assert [plan.step for plan in rest] == list(range(taken, 18)) and all(plan.epoch == 0 for plan in rest)
    assert nothing_is_held(far)


def test_a_cut_of_what_was_not_read_changes_nothing(far):
    plans, pools = pools_of(far)
    next(pools)
    assert not pools.cut(2)
    pools.begun(plans[0])
    for plan in plans[1:]:
        assert next(pools) is plan
        pools.begun(plan)


def test_select_drops_what_was_read_ahead_of_it(far, beton):
    def ids_of(dataset):
        with BudgetLoader(dataset, **{**SHAPE, "sampling": BLOCKS}, with_ids=True) as batches:
            found = []
            for epoch in batches.epochs():
                for place, (_, _, ids) in enumerate(batches):
                    found.append((epoch, ids.tolist()))
                    if place == 1 and epoch < 3:
                        batches.select(epoch + 1, ids=np.arange(epoch, 70, 3))
            return found

    expected = ids_of(beton)
    assert ids_of(far) == expected
    assert {ids for epoch, batch in expected if epoch == 2 for ids in batch} <= set(range(1, 70, 3))
    assert nothing_is_held(far)


def test_a_store_that_fails_is_one_error_and_the_loop_goes_on(web, proxy, beton):
    patience = Patience(attempts=2, seconds=1.0, first_pause=0.01, longest_pause=0.02)
    far = RemoteDataset(f"{proxy.url}/train.beton", patience=patience)
    _, whole, _ = stream_of(beton)
    found = []
    with BudgetLoader(far, **{**SHAPE, "sampling": BLOCKS}, with_ids=True) as batches:
        proxy.trouble = Trouble(lambda number: "500")
        with pytest.raises(StorageError, match="sample"):
            for _ in batches.epochs():
                found += [ids.tolist() for _, _, ids in batches]
        proxy.trouble = Trouble()
        for _ in batches.epochs():
            found += [ids.tolist() for _, _, ids in batches]
    assert found == whole and nothing_is_held(far)


def test_a_request_that_fails_now_and_then_changes_nothing(web, proxy, beton):
    patience = Patience(first_pause=0.01, longest_pause=0.02)
    far = RemoteDataset(f"{proxy.url}/train.beton", patience=patience)
    faults = ("500", None, "cut", None, "damaged", None, None)
    proxy.trouble = Trouble(lambda number: faults[number % len(faults)])
    assert stream_of(far)[0] == stream_of(beton)[0]
    assert proxy.trouble.injected


def test_windows_are_fetched_one_by_one_all_the_same(web, beton):
    far = RemoteDataset(f"{web.url}/train.beton", fetch="window")
    assert stream_of(far, engine="native")[0] == stream_of(beton, engine="native")[0]


class Engine:
    capacity = 2


def test_a_disk_is_told_of_whole_blocks_ahead_of_the_plans(beton, monkeypatch):
    """What `will_need` was told, before a plan is given, covers the plan; few long parts, and nothing else."""
    local, told = Dataset(beton), []
    monkeypatch.setattr(local, "will_need", lambda start, stop: told.append((start, stop)))
    options = {"schedule": Schedule.full(epochs=2), "batch_size": 7, "seed": 1}
    planner = Planner(local, wanted=Wanted("blocks:10/30"), **options)
    plans = fetched(local, stream(planner, epoch=0, step=0), planner, Engine())
    given = 0
    for plan in plans:
        given += len(plan)
        for sample in plan.samples.tolist():
            start, size = int(local.starts[sample]), int(local.sizes[sample])
            assert any(low <= start and start + size <= high for low, high in told)
    assert given == 140 and len(told) <= 2 * 8


def test_uniform_orders_and_engines_that_read_nothing_tell_a_disk_nothing(beton):
    class Resident(Engine):
        reads_samples = False

    local, plans = Dataset(beton), iter(())
    planner = Planner(local, schedule=Schedule.full(epochs=1), batch_size=7, seed=1)
    assert fetched(local, plans, planner, Engine()) is plans
    blocks = Planner(local, schedule=Schedule.full(epochs=1), batch_size=7, seed=1, wanted=Wanted("blocks"))
    assert fetched(local, plans, blocks, Resident()) is plans
    assert fetched(local, plans, blocks, Engine()) is not plans


def test_a_part_that_is_needed_soon_is_asked_of_the_system(beton):
    local = Dataset(beton)
    local.will_need(0, 1 << 20)
    local.will_need(int(local.starts[3]), int(local.starts[3]) + 10)
    assert local.jpeg(3)[:2].tolist() == [0xFF, 0xD8]
