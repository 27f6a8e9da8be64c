"""A transform behind every engine: the two together pass the contract of an engine."""

import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from test_engines import (  # the contract: pytest runs what is imported with this file's `make`
    create,
    data,
    planner,
    plans,
    produce,
    test_close_leaves_no_thread_even_with_batches_under_way,
    test_two_engines_in_one_process_do_not_disturb_each_other,
)

from budgetloader import ArgumentError, BudgetLoader, Dataset, EngineError, Schedule, engines
from budgetloader.bench.fake_cuda import FakeCUDA
from budgetloader.engines import DirectEngine
from budgetloader.engines.base import Job, Output
from budgetloader.engines.stage import Stage
from budgetloader.transforms import PerBatch, PerGroup, PerSample, sample_keys, uniform

__all__ = [
    "data",
    *("test_a_corrupt_sample_is_named_within_two_seconds", "test_after_abort_the_next_batch_is_of_the_next_plan"),
    *("test_a_corrupt_sample_is_replaced_by_the_same_one_on_every_engine", "test_decoded_is_emitted"),
    *("test_batches_come_in_order_with_their_plans_labels", "test_batches_that_are_kept_stay_as_they_were"),
    "test_close_leaves_no_thread_even_with_batches_under_way",
    *("test_more_than_the_capacity_and_get_without_submit_are_refused", "test_torchs_threads_are_left_alone"),
    "test_two_engines_in_one_process_do_not_disturb_each_other",
]


def same(images, targets, keys):
    return images, targets


def staged(name, data, transform=same, *, make=engines.create, capacity=3, workers=2, batch_size=8, **output):
    """An engine with a transform behind it; as `create`, or with an engine of one's own."""
    on_corrupt = output.pop("on_corrupt", "raise")
    replacement = planner(data).replacement
    job = Job(data, Output(**{"image_size": 32, **output}), batch_size, workers, capacity, on_corrupt, replacement)
    stage = Stage(transform, seed=5)
    return stage.behind(make(name, stage.asked(job)), job)


@pytest.fixture
def make(request, data):
    """What `test_engines.make` is, with a stage; native alone is what others are compared with."""
    made = []

    def make(*, data=data, name=request.param, **options):
        made.append(staged(name, data, **options))
        return made[-1]

    make.engine = request.param
    yield make
    for engine in made:
        engine.close()


def test_a_staged_engine_that_is_forgotten_leaves_no_thread(beton):
    data = Dataset(beton)
    staged("native", data).close()
    before = set(threading.enumerate())
    engine = staged("native", data)
    engine.submit(plans(data, 1)[0])
    engine.get()
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None and set(threading.enumerate()) <= before


def test_a_transform_of_nothing_changes_no_bit(beton):
    data = Dataset(beton)
    todo = plans(data, 9)
    for options in (
        {"dtype": "float32"},
        {"dtype": "bfloat16", "layout": "contiguous"},
        {"dtype": "uint8", "layout": "contiguous"},
    ):
        plain, ours = create("native", data, **options), staged("native", data, **options)
        for a, b in zip(produce(plain, todo), produce(ours, todo), strict=True):
            assert torch.equal(a.images, b.images) and a.images.stride() == b.images.stride()
        plain.close()
        ours.close()


@pytest.fixture
def three(beton):
    """Batches that a transform makes of the first three plans, of native or another engine."""
    data = Dataset(beton)

    def three(transform, *, engine="native", **options):
        made = staged(engine, data, transform, **{"dtype": "uint8", **options})
        try:
            return produce(made, plans(data, 3))
        finally:
            made.close()

    return three


def test_a_transform_gets_uint8_images_labels_and_keys_of_its_rows(three, beton):
    seen = []

    def watch(images, targets, keys):
        seen.append((images.dtype, tuple(images.shape), targets.tolist(), keys.tolist()))
        return images, targets

    three(watch, workers=1)
    todo = plans(Dataset(beton), 3)
    keys = [sample_keys(plan.positions, seed=5, epoch=plan.epoch).tolist() for plan in todo]
    rows = [(torch.uint8, (8, 3, 32, 32), plan.labels.tolist(), each) for plan, each in zip(todo, keys, strict=True)]
    assert seen == [rows[0], *rows]  # the first batch twice, to compare


def test_a_transform_of_samples_gets_parts_of_a_batch_at_multiples_of_its_rows(three):
    sizes = []

    class Watch:
        rows = 6

        def __call__(self, images, targets, keys):
            sizes.append(len(images))
            return images, targets

    three(Watch(), batch_size=8)
    assert set(sizes) == {8}  # two groups of six would be more than there is
    sizes.clear()
    Watch.rows = 3
    three(Watch(), batch_size=8, workers=1)
    assert set(sizes) == {8}  # nine rows a task


def test_targets_may_become_anything_of_as_many_samples(three):
    def soft(images, targets, keys):
        return images, torch.nn.functional.one_hot(targets, 14).float()

    def named(images, targets, keys):
        return images, {"class": targets, "names": [f"class {t}" for t in targets.tolist()]}

    for batch in three(soft):
        assert batch.handed_out.shape == (8, 14) and batch.handed_out.argmax(1).tolist() == batch.plan.labels.tolist()
    for batch in three(named):
        assert batch.handed_out["names"] == [f"class {t}" for t in batch.plan.labels.tolist()]


def test_what_a_transform_writes_in_place_reaches_no_other_batch(three):
    """The synthetic engine gives the same images again and again."""

    def darker(images, targets, keys):
        return images.div_(2, rounding_mode="floor"), targets

    plain, changed = three(same, engine="synthetic"), three(darker, engine="synthetic")
    for a, b in zip(plain, changed, strict=True):
        assert torch.equal(b.images, a.images.div(2, rounding_mode="floor"))


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda i, t, k: None, "gave a NoneType; return"),
        (lambda i, t, k: (i.float(), t), r"gave torch.float32 .* return torch.uint8 \[8, 3, 32, 32\]"),
        (lambda i, t, k: (i[:, :, :16], t), "image_size= says their size"),
        (lambda i, t, k: (i, t[:3]), "targets of other than 8 samples"),
        (lambda i, t, k: (i, 3), "targets of other than 8 samples"),
        (lambda i, t, k: (torch.rand(i.shape).mul(255).byte(), t), "two results for the same samples and keys"),
        (lambda i, t, k: (i, torch.rand(len(i))), "two results"),
        (PerSample(lambda i: i + np.random.randint(9)), "two results .* PerSample"),
        (PerSample(lambda i: i[:, :3]), r"shape \[3, 3, 32\] for one of \[3, 32, 32\]"),
        (PerSample(lambda i: "x"), "gave a str in place of images"),
        (PerGroup(lambda i, t: i), "no pair of images and targets"),
    ],
)
def test_what_a_transform_must_not_give_is_said(three, transform, message):
    with pytest.raises(ArgumentError, match=message):
        three(transform)


def test_an_error_of_a_transform_reaches_the_trainer_and_the_next_batch_can_be_made(beton):
    data = Dataset(beton)
    wrong = plans(data, 2)[1].labels.tolist()

    def fails_once(images, targets, keys):
        if targets.tolist() == wrong:
            raise ZeroDivisionError("mine")
        return images, targets

    engine, todo = staged("native", data, fails_once), plans(data, 3)
    for plan in todo:
        engine.submit(plan)
    assert engine.get().plan is todo[0]
    with pytest.raises(ZeroDivisionError, match="mine"):
        engine.get()
    engine.abort()
    assert [batch.plan for batch in produce(engine, todo[2:])] == todo[2:]
    engine.close()


def test_a_transform_runs_on_one_thread_of_torchs(three):
    inside = []

    def watch(images, targets, keys):
        inside.append(torch.get_num_threads())
        return images, targets

    before = torch.get_num_threads()
    three(watch)
    assert set(inside) == {1} and torch.get_num_threads() == before


class Slow(DirectEngine):
    """An engine that works until it is told to end."""

    def __init__(self, job):
        super().__init__(capacity=job.capacity)
        self.end = threading.Event()

    def make(self, plan):
        self.end.wait()
        raise EngineError("it was closed")

    def _stop(self):
        self.end.set()


def test_closing_ends_an_engine_that_is_waited_for(beton, monkeypatch):
    monkeypatch.setattr("budgetloader.engines.stage._PATIENCE_SECONDS", 0.05)
    data, before = Dataset(beton), set(threading.enumerate())
    engine = staged("slow", data, make=lambda name, job: Slow(job))
    engine.submit(plans(data, 1)[0])
    engine.close()
    assert set(threading.enumerate()) <= before


def test_an_engine_that_was_aborted_decodes_no_more_than_what_was_under_way(beton):
    data = Dataset(beton)
    engine, todo = staged("native", data), plans(data, 8)
    for _ in range(5):
        for plan in todo[:3]:
            engine.submit(plan)
        engine.abort()
    batches = produce(engine, todo[5:])
    assert [batch.plan for batch in batches] == todo[5:]
    assert engine.work.decoded(0) <= 8 * (5 * 3 + 3)
    engine.close()


def brighter(images, targets, keys):
    more = torch.from_numpy(uniform(keys)[:, 0] * 99).to(images.device, torch.uint8)
    return images // 2 + more.view(-1, 1, 1, 1), targets


def several(images, targets, keys):
    listed = [targets * 3] * len(targets)  # an entry for each sample
    return images, {"sum": targets + 0, "pair": (targets * 2, listed)}


PLACES = [brighter, PerBatch(lambda i: i.clamp(max=0.5), on="device"), PerSample(lambda i: 255 - i)]


@pytest.mark.parametrize("transform", PLACES, ids=["function", "PerBatch on the device", "PerSample on the host"])
@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"dtype": "uint8"}])
@pytest.mark.parametrize("seed", range(3))
def test_on_a_gpu_the_order_of_all_operations_is_kept(beton, transform, options, seed):
    """On a fake GPU that knows which operation may see what another one wrote."""
    data = Dataset(beton)
    expected = staged("native", data, transform, **options)
    todo = plans(data, 9)
    reference = produce(expected, todo)
    expected.close()
    with FakeCUDA(seed=seed) as fake:
        engine = staged("native", data, transform, device="cuda:0", **options)
        batches = produce(engine, todo)
        found = [(batch.images.cpu(), batch.labels.cpu()) for batch in batches]
        engine.close()
    assert not fake.order.faults
    for (images, labels), batch in zip(found, reference, strict=True):
        assert torch.equal(images, batch.images) and torch.equal(labels, batch.labels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_real_gpu_no_target_is_given_away_under_a_trainers_kernel(beton):
    options = {"schedule": Schedule.full(epochs=4), "batch_size": 8, "image_size": 16, "targets": np.arange(70)}
    sums = []
    with BudgetLoader(beton, device="cuda:0", transform=several, with_ids=True, **options) as batches:
        for _ in batches.epochs():
            for _, targets, ids in batches:
                torch.cuda._sleep(20_000_000)  # some 10 ms, in which what is queued below has not been read
                sums.append((targets["sum"] + targets["pair"][0], ids))
                del targets
    assert all(torch.equal(total.cpu(), 3 * ids) for total, ids in sums)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "wanted, transform, read",
    [
        ((np.arange(70), np.arange(70) * 2), same, lambda targets: targets[0] + targets[1]),
        (np.arange(70), several, lambda targets: targets["sum"] + targets["pair"][0]),
        (np.arange(70), several, lambda targets: targets["pair"][1][0] * 1),
    ],
    ids=["arrays", "a dict of the transform's", "a list in it"],
)
def test_on_a_gpu_no_target_is_given_away_under_a_trainers_kernel(beton, wanted, transform, read, seed):
    """Targets in tuples, dicts and lists are read by kernels that are still queued when the trainer drops them."""
    options = {"schedule": Schedule.full(epochs=1), "batch_size": 8, "image_size": 16, "targets": wanted}
    with (
        FakeCUDA(seed=seed) as fake,
        BudgetLoader(beton, device="cuda:0", transform=transform, with_ids=True, **options) as batches,
    ):
        sums = []
        for _, targets, ids in batches:
            sums.append((read(targets), ids))
            del targets
        found = [(total.cpu(), ids) for total, ids in sums]
    assert not fake.order.faults
    assert all(torch.equal(total, 3 * ids) for total, ids in found)
