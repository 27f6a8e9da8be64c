import ast
import contextlib
import gc
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from test_engines import PIXELS, create, plans, produce

import budgetloader
from budgetloader import BudgetLoader, Dataset, EngineError, Schedule, engines
from budgetloader.bench.fake_cuda import FakeCUDA
from budgetloader.engines import upload

# What names a stream, an event or pinned memory in torch, DALI or CUDA's own interface.
NAMES = {
    *("Stream", "ExternalStream", "stream", "current_stream", "default_stream", "set_stream", "cuda_stream"),
    *("cuda_streams", "record_stream", "wait_stream", "wait_event", "Event", "synchronize", "elapsed_time"),
    *("pin_memory", "is_pinned", "cudart", "caching_allocator_alloc", "CUDAGraph"),
}
UPLOADER = "engines/upload.py"


def names_of_streams(source: str) -> set[str]:
    """What of `NAMES` a source uses; the loader's own streams of plans, and threads' events, are other things."""
    tree = ast.parse(source)
    used = set()
    keys = {id(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys}  # words to explain
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in NAMES:
            used.add(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg in NAMES:
            used.add(str(node.arg))
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("torch"):
            used |= {name.name for name in node.names} & NAMES
        elif (
            isinstance(node, ast.Constant)
            and id(node) not in keys
            and node.value in {"record_stream", "pin_memory", "current_stream"}
        ):
            used.add(node.value)
    return used - {"threading.Event"}


def test_no_file_but_the_uploader_names_a_stream_an_event_or_pinned_memory():
    root = Path(budgetloader.__file__).parent
    folders = (root, root / "engines", root / "service")
    files = {p.relative_to(root).as_posix(): p.read_text() for folder in folders for p in folder.glob("*.py")}
    assert len(files) > 40 and names_of_streams(files.pop(UPLOADER))
    assert {path: used for path, text in files.items() if (used := names_of_streams(text))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "torch.cuda.current_stream(device).wait_event(event)",
        "images.pin_memory()",
        "torch.empty(3, pin_memory=True)",
        "pipeline.share_outputs(cuda_stream=handle)",
        "from torch.cuda import Event",
        "getattr(images, 'record_stream')(s)",
        "torch.cuda.synchronize()",
    ],
)
def test_the_test_of_the_names_can_fail(source):
    assert names_of_streams(source)


@pytest.fixture
def data(request, beton, small_beton) -> Dataset:
    return Dataset(small_beton if request.node.callspec.params.get("name") == "resident" else beton)


ON_A_DEVICE = [p for p in PIXELS if p.values != ("dali",)]  # a real pipeline needs a real GPU


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
REAL = pytest.param("a real cuda", marks=(pytest.mark.gpu, NO_GPU))
OPTIONS = (
    {"dtype": "float32"},
    {"dtype": "bfloat16", "layout": "contiguous"},
    {"dtype": "uint8", "interpolation": "linear"},
)


@pytest.mark.parametrize("name", ON_A_DEVICE)
@pytest.mark.parametrize("kind", ["cuda", "mps", REAL])
def test_batches_on_a_device_have_the_bits_of_those_on_the_cpu(name, kind, data):
    todo, real = plans(data, 3), kind == "a real cuda"
    kind = "cuda" if real else kind
    for options in OPTIONS[:1] if name == "ffcv" else OPTIONS:  # whose loader takes seconds to make
        expected = make_all(name, data, todo, options)
        with contextlib.nullcontext() if real else FakeCUDA(kind=kind) as fake:
            batches = make_all(name, data, todo, {**options, "device": f"{kind}:0"})
            for batch, other in zip(batches, expected, strict=True):
                assert str(batch.images.device) == str(batch.labels.device) == f"{kind}:0"
                assert batch.images.stride() == other.images.stride()
                assert torch.equal(batch.labels.cpu(), other.labels)
                found, wanted = batch.images.cpu(), other.images
                if name == "ffcv":  # which compiles our float32 with a fused multiplication and addition
                    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-7)
                elif name == "resident" and kind == "cuda":  # which blends in float64 there: a pixel may be 1 off
                    one = {torch.uint8: 1, torch.bfloat16: 0.035}.get(wanted.dtype, 1.02 / 255 / 0.224)
                    assert (found.double() - wanted.double()).abs().max() <= one
                    assert (found == wanted).double().mean() > 0.99
                else:
                    assert torch.equal(found, wanted)
            assert real or not fake.order.faults


def make_all(name, data, todo, options):
    engine = create(name, data, **options)
    try:
        return produce(engine, todo)
    finally:
        engine.close()


def test_on_a_cpu_the_uploader_copies_nothing(dataset):
    job = engine_job(dataset, device="cpu")
    up = upload.uploader(job)
    buffer, labels = up.take(2), np.arange(2)
    sent = up.send(buffer, labels)
    assert sent.images.data_ptr() == buffer.ctypes.data and sent.labels.data_ptr() == labels.ctypes.data
    assert sent.arrival is None and up.host is job.output


def engine_job(data, **output):
    from budgetloader.engines.base import Job, Output

    return Job(
        data, Output(image_size=8, **output), batch_size=4, workers=1, capacity=2, on_corrupt="raise", replacement=None
    )


def test_pinned_memory_is_bounded_and_taken_again(dataset):
    with FakeCUDA() as fake:
        up = upload.uploader(engine_job(dataset, device="cuda:0"))
        addresses = set()
        for _ in range(50):
            buffer = up.take(4)
            addresses.add(buffer.ctypes.data)
            up.send(buffer, np.arange(4))
            del buffer
        gc.collect()
        assert len(addresses) <= 2 + 2 + 1  # the batches whose copies may be under way, and the one that is written
        up.close()
    assert not fake.order.faults


def test_pixels_go_to_a_gpu_as_bytes(dataset):
    with FakeCUDA():
        up = upload.uploader(engine_job(dataset, device="cuda:0", dtype="float32", layout="contiguous"))
        buffer = up.take(4)
        assert buffer.dtype == np.uint8 and buffer.shape == (4, 8, 8, 3)
        assert torch.from_numpy(buffer).is_pinned()


def test_memory_of_others_is_copied_before_send_returns(dataset):
    with FakeCUDA():
        up = upload.uploader(engine_job(dataset, device="cuda:0", dtype="uint8"))
        buffer = np.full((4, 8, 8, 3), 7, np.uint8)
        sent = up.send(buffer, np.arange(4), foreign=True)
        buffer[:] = 9
        assert (sent.images.cpu() == 7).all()


@pytest.mark.parametrize("device", ["meta", "xpu:0"])
def test_a_device_that_batches_cannot_be_made_for_is_refused(dataset, device):
    with pytest.raises(EngineError, match=f"'{device}': batches are made on 'cpu', 'cuda' and 'mps'"):
        upload.uploader(engine_job(dataset, device=device))


def test_a_gpu_without_a_number_is_refused(dataset):
    with FakeCUDA(), pytest.raises(EngineError, match="give 'cuda:0'"):
        upload.uploader(engine_job(dataset, device="cuda"))


def test_running_out_of_memory_is_the_batchs_error_and_no_reason_to_decode_elsewhere(dataset):
    with FakeCUDA() as fake:
        engine = create("native", dataset, device="cuda:0")
        fake.failures["mul_"] = torch.OutOfMemoryError("out of memory, made up")
        with pytest.raises(torch.OutOfMemoryError, match="made up"):
            produce(engine, plans(dataset, 1))
        engine.close()
    assert not fake.order.faults


def test_closing_does_not_wait_for_a_gpu_that_hangs_for_ever(dataset, monkeypatch, caplog):
    monkeypatch.setattr(upload, "JOIN_SECONDS", 0.05)
    with FakeCUDA() as fake:
        up = upload.uploader(engine_job(dataset, device="cuda:0"))
        up.send(up.take(4), np.arange(4))
        monkeypatch.setattr(fake.order, "passed", lambda event: False)
        upload._given_up.clear()  # what tests before this one have left for the collector
        up.close()
        assert "the GPU has not copied 1 batches" in caplog.text and len(upload._given_up) == 1
        upload._given_up.clear()


def test_closing_does_not_wait_for_a_batch_that_hangs_on_its_way(dataset, monkeypatch, caplog):
    monkeypatch.setattr(upload, "JOIN_SECONDS", 0.05)
    with FakeCUDA():
        up = upload.uploader(engine_job(dataset, device="cuda:0"))
        go_on, begun = threading.Event(), threading.Event()
        hanging = threading.Thread(target=lambda: up.run(lambda put: (begun.set(), go_on.wait(30))))
        hanging.start()
        assert begun.wait(30)
        up.close()
        assert "may hang" in caplog.text
        go_on.set()
        hanging.join()
        up.close()


def test_closing_says_that_a_gpu_has_failed(dataset, monkeypatch, caplog):
    """A GPU's error is raised by every call that comes after it."""
    with FakeCUDA() as fake:
        up = upload.uploader(engine_job(dataset, device="cuda:0"))
        up.send(up.take(4), np.arange(4))

        def failed(clock):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        monkeypatch.setattr(fake.order, "passed", failed)
        upload._given_up.clear()
        up.close()
        assert "illegal memory access" in caplog.text and len(upload._given_up) == 1
        upload._given_up.clear()


def test_a_ranks_gpu_is_resolved_once_and_no_other_is_touched(dataset):
    """As torchrun's second process: torch.cuda.set_device(1), device="cuda", threads that begin on GPU 0."""
    with FakeCUDA(devices=2, home={1}) as fake:
        torch.cuda.set_device(1)
        assert engines.check_device("cuda") == "cuda:1"
        options = {
            "schedule": Schedule.full(epochs=1),
            "batch_size": 8,
            "image_size": 8,
            "workers": 2,
        }
        with BudgetLoader(dataset, device="cuda", rank=1, world_size=2, **options) as batches:
            assert batches.engine == "native"
            assert {(str(i.device), str(t.device)) for i, t in batches} == {("cuda:1", "cuda:1")}
        assert torch.cuda.current_device() == 1
    assert not fake.order.faults


def test_a_gpu_that_is_not_the_threads_own_is_used_without_touching_that(dataset):
    """As a rank that gives device="cuda:1" and calls no set_device: a context on GPU 0 would take its memory."""
    options = {"schedule": Schedule.full(epochs=1), "batch_size": 8, "image_size": 8, "workers": 2}
    with FakeCUDA(devices=2, home={1}) as fake:
        for transform in (None, lambda images, targets, keys: (images, targets)):
            with BudgetLoader(dataset, device="cuda:1", transform=transform, **options) as batches:
                assert {(str(i.device), str(t.device)) for i, t in batches} == {("cuda:1", "cuda:1")}
        assert torch.cuda.current_device() == 0
    assert not fake.order.faults


def test_two_loaders_of_one_process_each_use_their_own_gpu(dataset):
    with FakeCUDA(devices=2) as fake:
        options = {"schedule": Schedule.full(epochs=1), "batch_size": 8, "image_size": 8, "workers": 1}
        with (
            BudgetLoader(dataset, device="cuda:0", **options) as first,
            BudgetLoader(dataset, device="cuda:1", **options) as second,
        ):
            for (a, _), (b, _) in zip(first, second, strict=True):
                assert (str(a.device), str(b.device)) == ("cuda:0", "cuda:1")
                assert torch.equal(a.cpu(), b.cpu())
        assert torch.cuda.current_device() == 0
    assert not fake.order.faults
