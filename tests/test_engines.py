"""The contract that every engine passes."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest
import torch

from loader import EngineError, Schedule, engines
from loader.batch import Planner, stream
from loader.engines.base import Job, Output

ENGINES = [name for name in engines.NAMES if name != "auto"]


@pytest.fixture(params=ENGINES)
def make(request, dataset):
    """Makes engines of one kind, and closes them."""
    made = []

    def make(*, capacity=3, workers=2, replacement=None, on_corrupt="raise", data=dataset, batch_size=8, **output):
        job = Job(
            dataset=data,
            output=Output(**{"image_size": 32, **output}),
            batch_size=batch_size,
            workers=workers,
            capacity=capacity,
            on_corrupt=on_corrupt,
            replacement=replacement or planner(data).replacement,
        )
        made.append(engines.create(request.param, job))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def planner(dataset, schedule=None):
    return Planner(dataset, schedule=schedule or Schedule.full(epochs=3), batch_size=8, seed=5)


def plans(dataset, count):
    p = stream(planner(dataset), epoch=0, step=0)
    return [next(p) for _ in range(count)]


def produce(engine, todo):
    """Drive an engine as the loader does."""
    todo, under_way, batches = iter(todo), 0, []
    while True:
        while under_way < engine.capacity and (plan := next(todo, None)) is not None:
            engine.submit(plan)
            under_way += 1
        if not under_way:
            return batches
        batches.append(engine.get())
        under_way -= 1


def test_batches_come_in_order_with_their_plans_labels(make, dataset):
    todo = plans(dataset, 12)
    batches = produce(make(), todo)
    assert [b.plan for b in batches] == todo
    for batch, plan in zip(batches, todo, strict=True):
        assert batch.labels.dtype == torch.int64
        np.testing.assert_array_equal(batch.labels.numpy(), plan.labels)


def test_pixels_do_not_depend_on_workers_or_capacity(make, dataset):
    todo = plans(dataset, 10)
    first, *others = (produce(make(workers=w, capacity=c), todo) for w, c in ((1, 1), (2, 3), (4, 5)))
    for other in others:
        assert all(torch.equal(a.images, b.images) for a, b in zip(first, other, strict=True))


def test_decoded_is_emitted(make, dataset):
    engine = make()
    produce(engine, plans(dataset, 20))
    assert [engine.work.decoded(e) for e in (0, 1, 2)] == [70, 70, 16]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_dtype_and_layout_are_as_asked(make, dataset, dtype, layout):
    todo = plans(dataset, 1)
    (batch,) = produce(make(dtype=dtype, layout=layout), todo)
    (pixels,) = produce(make(dtype="uint8"), todo)
    assert batch.images.shape == (8, 3, 32, 32) and batch.images.dtype == getattr(torch, dtype)
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert batch.images.is_contiguous(memory_format=memory)
    if dtype != "uint8":
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        expected = ((pixels.images / 255 - mean) / std).to(batch.images.dtype)
        torch.testing.assert_close(batch.images, expected)


def test_batches_that_are_kept_stay_as_they_were(make, dataset):
    engine = make()
    batches = produce(engine, plans(dataset, 20))
    again = produce(engine, plans(dataset, 20))
    assert all(torch.equal(a.images, b.images) for a, b in zip(batches, again, strict=True))


def test_after_abort_the_next_batch_is_of_the_next_plan(make, dataset):
    engine, todo = make(capacity=3), plans(dataset, 6)
    for plan in todo[:3]:
        engine.submit(plan)
    engine.abort()
    (batch,) = produce(engine, todo[5:])
    assert batch.plan is todo[5]
    (alone,) = produce(make(), todo[5:])
    assert torch.equal(batch.images, alone.images)


def test_more_than_the_capacity_and_get_without_submit_are_refused(make, dataset):
    engine, todo = make(capacity=1), plans(dataset, 2)
    with pytest.raises(EngineError, match="submit"):
        engine.get()
    engine.submit(todo[0])
    with pytest.raises(EngineError, match="under way"):
        engine.submit(todo[1])


def test_an_error_in_the_engine_reaches_the_caller_within_two_seconds(make, dataset):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("from inside")

    class Broken:
        def __getattr__(self, name):
            return broken if name == "jpeg" else getattr(dataset, name)

        def __len__(self):
            return len(dataset)

    engine = make(data=Broken(), replacement=planner(dataset).replacement)
    began = time.perf_counter()
    with pytest.raises(ZeroDivisionError, match="from inside"):
        produce(engine, plans(dataset, 5))
    assert time.perf_counter() - began < 2


def test_close_leaves_no_thread_even_with_batches_under_way(make, dataset):
    before = set(threading.enumerate())
    engine = make()
    for plan in plans(dataset, 3):
        engine.submit(plan)
    engine.close()
    engine.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(EngineError, match="closed"):
        engine.submit(plans(dataset, 1)[0])


def test_an_engine_that_is_forgotten_leaves_no_thread(make, dataset):
    before = set(threading.enumerate())
    # Not through `make`, which holds on to it.
    job = make()._job
    engine = type(make())(job)
    engine.submit(plans(dataset, 1)[0])
    gone = weakref.ref(engine)
    mine = set(threading.enumerate()) - before
    del engine
    gc.collect()
    assert gone() is None and mine


def test_unknown_engines_and_outputs_are_refused(dataset):
    with pytest.raises(EngineError, match="native"):
        engines.resolve("warp")
    for bad in ({"dtype": "int8"}, {"layout": "nhwc"}, {"interpolation": "cubic"}, {"std": (0, 1, 1)}):
        with pytest.raises(EngineError, match=str(next(iter(bad)))):
            Output(image_size=8, **bad)
