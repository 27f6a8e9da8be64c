"""The contract that every engine passes."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from conftest import damage

from budgetloader import BudgetLoader, CorruptSampleError, Dataset, EngineError, LoaderError, Schedule, engines
from budgetloader.bench.fake_cuda import FakeCUDA
from budgetloader.engines import threads
from budgetloader.engines.base import Job, Output
from budgetloader.errors import ArgumentError
from budgetloader.plans import Planner, stream

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(not engines.installed(name), reason=f"{name} is not installed"))
    for name in engines.NAMES
    if name != "auto"
]


PIXELS = [p for p in ENGINES if p.values != ("synthetic",)]  # engines whose pixels are the images'
every_engine = pytest.mark.parametrize("make", ENGINES, indirect=True)
every_real_engine = pytest.mark.parametrize("make", PIXELS, indirect=True)
# Mean difference to native that the filter, and FFCV's fast inverse DCT, may make, of 255.
TOLERANCE = {"native": 0.0, "resident": 0.05, "dali": 0.5, "ffcv": 1.5}


@pytest.fixture
def data(request, beton, small_beton) -> Dataset:
    """What the engine under test can work on: resident holds images of one size."""
    name = request.node.callspec.params.get("make")
    return Dataset(small_beton if name == "resident" else beton)


@pytest.fixture
def make(request, data):
    """Makes engines of one kind, and closes them."""
    made = []

    def make(*, capacity=3, workers=2, on_corrupt="raise", data=data, batch_size=8, name=request.param, **output):
        made.append(create(name, data, capacity, workers, on_corrupt, batch_size, **output))
        return made[-1]

    make.engine = request.param
    yield make
    for engine in made:
        engine.close()


def create(name, data, capacity=3, workers=2, on_corrupt="raise", batch_size=8, **output):
    job = Job(
        dataset=data,
        output=Output(**{"image_size": 32, **output}),
        batch_size=batch_size,
        workers=workers,
        capacity=capacity,
        on_corrupt=on_corrupt,
        replacement=planner(data).replacement,
    )
    return engines.create(name, job)


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


@every_engine
def test_batches_come_in_order_with_their_plans_labels(make, data):
    todo = plans(data, 12)
    batches = produce(make(), todo)
    assert [b.plan for b in batches] == todo
    for batch, plan in zip(batches, todo, strict=True):
        assert batch.labels.dtype == torch.int64 and len(batch.images) == len(plan)
        np.testing.assert_array_equal(batch.labels.numpy(), plan.labels)


@every_real_engine
@pytest.mark.parametrize("interpolation", ["antialias", "linear"])
@pytest.mark.parametrize("image_size", [32, 224])
def test_pixels_are_natives(make, data, interpolation, image_size):
    todo = plans(data, 9)
    options = {"interpolation": interpolation, "image_size": image_size, "dtype": "uint8"}
    ours, reference = produce(make(**options), todo), produce(make(name="native", **options), todo)
    for a, b in zip(ours, reference, strict=True):
        difference = (a.images.int() - b.images.int()).abs().float()
        assert difference.mean() <= TOLERANCE[make.engine]
        # A window or flip that is off by one would pass a mean over smooth images, and not this.
        assert difference.flatten(1).mean(1).max() <= 2 * TOLERANCE[make.engine] + 0.05


@every_real_engine
def test_pixels_do_not_depend_on_workers_or_capacity(make, data):
    todo = plans(data, 10)
    first, *others = (produce(make(workers=w, capacity=c), todo) for w, c in ((1, 1), (2, 3), (4, 5)))
    for other in others:
        assert all(torch.equal(a.images, b.images) for a, b in zip(first, other, strict=True))


@every_engine
def test_decoded_is_emitted(make, data):
    engine = make()
    produce(engine, plans(data, 20))
    assert [engine.work.decoded(e) for e in (0, 1, 2)] == [70, 70, 16]


@every_engine
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_dtype_and_layout_are_as_asked(make, data, dtype, layout):
    todo = plans(data, 1)
    (batch,) = produce(make(dtype=dtype, layout=layout), todo)
    (pixels,) = produce(make(dtype="uint8"), todo)
    assert batch.images.shape == (8, 3, 32, 32) and batch.images.dtype == getattr(torch, dtype)
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert batch.images.is_contiguous(memory_format=memory)
    if dtype != "uint8":
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        expected = ((pixels.images / 255 - mean) / std).to(batch.images.dtype)
        torch.testing.assert_close(batch.images, expected)


@every_engine
def test_batches_that_are_kept_stay_as_they_were(make, data):
    engine = make()
    batches = produce(engine, plans(data, 20))
    again = produce(engine, plans(data, 20))
    assert all(torch.equal(a.images, b.images) for a, b in zip(batches, again, strict=True))


@every_engine
def test_after_abort_the_next_batch_is_of_the_next_plan(make, data):
    engine, todo = make(capacity=3), plans(data, 6)
    for plan in todo[:3]:
        engine.submit(plan)
    engine.abort()
    (batch,) = produce(engine, todo[5:])
    assert batch.plan is todo[5]
    (alone,) = produce(make(), todo[5:])
    assert torch.equal(batch.images, alone.images)


@every_engine
def test_more_than_the_capacity_and_get_without_submit_are_refused(make, data):
    engine, todo = make(capacity=1), plans(data, 2)
    with pytest.raises(EngineError, match="submit"):
        engine.get()
    engine.submit(todo[0])
    with pytest.raises(EngineError, match="under way"):
        engine.submit(todo[1])


@every_real_engine
def test_a_corrupt_sample_is_named_within_two_seconds(make, data, tmp_path):
    damaged = Dataset(damage(data.path, tmp_path / "x.beton", samples=(3, 64)))
    began = time.perf_counter()
    with pytest.raises(CorruptSampleError, match=r"sample (3|64) does not decode") as caught:
        engine = make(data=damaged)
        began = time.perf_counter()
        produce(engine, plans(damaged, 9))
    assert time.perf_counter() - began < 2 and caught.value.sample in (3, 64)


@every_real_engine
def test_a_corrupt_sample_is_replaced_by_the_same_one_on_every_engine(make, data, tmp_path):
    damaged = Dataset(damage(data.path, tmp_path / "x.beton", samples=(3, 64)))
    todo = plans(damaged, 18)
    options = {"data": damaged, "on_corrupt": "replace", "dtype": "uint8"}
    ours, reference = produce(make(**options), todo), produce(make(name="native", **options), todo)
    assert sum(b.replaced for b in ours) == 4
    for a, b in zip(ours, reference, strict=True):
        assert torch.equal(a.labels, b.labels) and a.replaced == b.replaced
        np.testing.assert_array_equal(a.shown, b.shown)
        np.testing.assert_array_equal(a.labels, damaged.labels[a.shown])
        assert not {3, 64} & set(a.shown.tolist())
        assert (a.images.int() - b.images.int()).abs().float().mean() <= TOLERANCE[make.engine]


@every_real_engine
def test_random_damage_never_crashes(make, data, tmp_path):
    random = np.random.default_rng(1)
    content = bytearray(data.path.read_bytes())
    for at in random.integers(int(data.starts[0]), len(content), 300):
        content[at] ^= 1 << int(random.integers(8))
    path = tmp_path / "x.beton"
    path.write_bytes(content)
    try:
        damaged = Dataset(path)
        batches = produce(make(data=damaged, on_corrupt="replace"), plans(damaged, 9))
        assert sum(len(b.images) for b in batches) == 70
    except LoaderError:
        pass


@every_engine
def test_close_leaves_no_thread_even_with_batches_under_way(make, data):
    make().close()  # what a library starts once and for all is there from now on
    before = set(threading.enumerate())
    engine = make()
    for plan in plans(data, 3):
        engine.submit(plan)
    engine.close()
    engine.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(EngineError, match="closed"):
        engine.submit(plans(data, 1)[0])


@every_engine
def test_an_engine_that_is_forgotten_leaves_no_thread(make, data):
    make().close()
    before = set(threading.enumerate())
    engine = create(make.engine, data)
    engine.submit(plans(data, 1)[0])
    engine.get()
    gone = weakref.ref(engine)
    del engine
    gc.collect()
    assert gone() is None and set(threading.enumerate()) <= before


@every_engine
def test_two_engines_in_one_process_do_not_disturb_each_other(make, data):
    a, b, todo = make(), make(), plans(data, 9)
    alone = produce(make(), todo)
    for engine in (a, b):
        for plan in todo[:3]:
            engine.submit(plan)
    for i in range(3):
        x, y = a.get(), b.get()
        assert torch.equal(x.images, y.images) and torch.equal(x.images, alone[i].images)


@every_engine
def test_torchs_threads_are_left_alone(make, data):
    before = torch.get_num_threads()
    produce(make(), plans(data, 2))
    assert torch.get_num_threads() == before


@every_engine
def test_torchs_settings_of_a_trainer_change_no_pixel(make, data):
    """Some engines work on the trainer's thread: its autocast and its default device are not theirs."""
    todo, size = plans(data, 4), 24
    expected = [batch.images for batch in produce(make(image_size=size), todo)]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        found = [batch.images for batch in produce(make(image_size=size), todo)]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_unknown_engines_and_outputs_are_refused():
    with pytest.raises(EngineError, match="native"):
        engines.resolve("warp", output=Output(8))
    for bad in ({"dtype": "int8"}, {"layout": "nhwc"}, {"interpolation": "cubic"}, {"std": (0, 1, 1)}, {"crop": "x"}):
        with pytest.raises(EngineError, match=str(next(iter(bad)))):
            Output(image_size=8, **bad)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_mean_on_the_scale_to_255_is_refused_with_what_to_give(name):
    with pytest.raises(ArgumentError, match=r"divide by 255: \w+=\(0.482, 0.455, 0.404\)"):
        Output(8, **{name: (123, 116, 103)})
    for wrong in ((0.5, 0.5), 0.5, (0.5, 0.5, -1), (0.5, 0.5, float("nan")), "abc"):
        with pytest.raises(ArgumentError, match=f"{name} .*three numbers"):
            Output(8, **{name: wrong})


def test_auto_takes_native_where_small_images_do_not_fit_into_memory(small_beton, monkeypatch):
    dataset, output = Dataset(small_beton), Output(40, crop="pad")
    assert engines.choose(output=output, dataset=dataset)[0] == "resident"
    monkeypatch.setattr(engines, "_free_host_bytes", lambda: 2 * (70 * 48 * 48 * 3 - 1))
    chosen, why = engines.choose(output=output, dataset=dataset)
    assert chosen == "native" and "483,840 bytes" in why


def test_what_an_engine_of_ones_own_needs_is_exported():
    from budgetloader.engines import BaseEngine, Batch, BatchPlan, DirectEngine, Engine, Job, Output, Work

    assert all(callable(kind) for kind in (BaseEngine, Batch, BatchPlan, DirectEngine, Engine, Job, Output, Work))
    with pytest.raises(AttributeError, match="Warp"):
        _ = engines.Warp


def test_closing_says_what_hangs_and_where(monkeypatch, caplog):
    release = threading.Event()

    def hang():
        release.wait()

    thread = threading.Thread(target=hang, name="native-7", daemon=True)
    thread.start()
    monkeypatch.setattr(threads, "JOIN_SECONDS", 0.05)
    threads.join_soon([thread])
    release.set()
    thread.join()
    assert "native-7 (in " in caplog.text and "line" in caplog.text and "left behind" in caplog.text


def test_an_engine_of_ones_own_is_a_class_with_one_method(dataset):
    from budgetloader.engines import Batch, DirectEngine

    class Grey(DirectEngine):
        def __init__(self, job):
            super().__init__(capacity=job.capacity)
            self.size = job.output.image_size

        def make(self, plan):
            return Batch(torch.full((len(plan), 3, self.size, self.size), 0.5), torch.from_numpy(plan.labels), plan)

    options = {"schedule": Schedule.of([1, "0.5"]), "batch_size": 8, "image_size": 16, "engine": Grey}
    with BudgetLoader(dataset, **options, with_ids=True) as batches:
        for _ in batches.epochs():
            for images, labels, ids in batches:
                assert images.shape == (len(labels), 3, 16, 16)
                np.testing.assert_array_equal(labels, dataset.labels[ids])
        assert batches.engine == "Grey" and [s.batches for s in batches.stats] == [9, 4]


def test_an_engine_that_is_not_installed_says_how_to_get_it(dataset, monkeypatch):
    monkeypatch.setattr(engines, "_is_there", lambda package: package != "ffcv")
    with pytest.raises(EngineError, match=r"pip install 'budgetloader\[ffcv\]'"):
        create("ffcv", dataset)


@pytest.mark.slow
def test_auto_says_which_engine_and_why(monkeypatch):
    choose = lambda **output: engines.choose(output=Output(32, **output))  # noqa: E731
    assert choose()[0] == "native" and "CPU" in choose()[1]
    assert choose(crop="pad")[0] == "resident"
    for gpu, capability, there, name in (
        ("Tesla T4", (7, 5), True, "native"),
        ("NVIDIA L4", (8, 9), True, "native"),
        ("NVIDIA A100", (8, 0), True, "dali"),
        ("NVIDIA A10", (8, 6), True, "native"),
        ("NVIDIA H100", (9, 0), True, "dali"),
        ("NVIDIA B200", (10, 0), True, "dali"),
        ("NVIDIA H100", (9, 0), False, "native"),
    ):
        monkeypatch.setattr(engines, "_is_there", lambda package, there=there: there)
        with FakeCUDA(capability=capability, name=gpu):
            chosen, why = choose(device="cuda:0")
        assert chosen == name and gpu in why and ("pip install" in why) == (not there)


@pytest.mark.slow
def test_ffcv_makes_no_stream_on_a_gpu_that_batches_do_not_go_to(dataset, monkeypatch):
    pytest.importorskip("ffcv")
    from ffcv.loader import epoch_iterator

    def refuse(*_):
        raise AssertionError("a context would be set up on a GPU")

    monkeypatch.setattr(epoch_iterator, "IS_CUDA", True)
    for name in ("Stream", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    engine = create("ffcv", dataset)
    assert len(produce(engine, plans(dataset, 2))) == 2
    engine.close()


@pytest.mark.skipif(not engines.installed("ffcv"), reason="ffcv is not installed")
def test_ffcvs_compiled_code_is_not_reused_when_the_code_within_it_changes():
    """Numba looks at one file only: this engine's has the cropping and resizing of two others in it."""
    from budgetloader.engines import ffcv

    for function in (ffcv._decode_row, ffcv._decode_rows):
        assert f"{ffcv._SOURCES:08x}" in function.py_func.__qualname__
        assert f"{ffcv._SOURCES:08x}" in function._cache._impl.filename_base
