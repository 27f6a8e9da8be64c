"""The GPU's engine; on a CPU torchvision's decoder runs the same code, but for the streams."""

import pytest
import torch
from conftest import damage
from test_engines import planner, plans, produce

from loader import CorruptSampleError, Dataset
from loader.engines.base import Job, Output
from loader.engines.native import NativeEngine
from loader.engines.native_cuda import NativeCUDAEngine

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]),
]


@pytest.fixture(params=DEVICES)
def make(request):
    made = []

    def make(cls, data, *, on_corrupt="raise", **output):
        device = request.param if cls is NativeCUDAEngine else "cpu"
        job = Job(
            dataset=data,
            output=Output(**{"image_size": 48, "device": device, **output}),
            batch_size=8,
            workers=2,
            capacity=3,
            on_corrupt=on_corrupt,
            replacement=planner(data).replacement,
        )
        made.append(cls(job))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.mark.parametrize("interpolation", ["antialias", "linear"])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_batches_are_those_of_the_cpu(make, dataset, interpolation, layout):
    todo = plans(dataset, 10)
    options = {"interpolation": interpolation, "layout": layout, "dtype": "uint8"}
    ours, reference = (
        produce(make(NativeCUDAEngine, dataset, **options), todo),
        produce(make(NativeEngine, dataset, **options), todo),
    )
    for a, b in zip(ours, reference, strict=True):
        assert torch.equal(a.labels.cpu(), b.labels) and a.images.shape == b.images.shape
        difference = (a.images.cpu().int() - b.images.int()).abs().float()
        assert difference.mean() <= (0.02 if a.images.device.type == "cpu" else 1.0)  # nvJPEG's inverse DCT is its own
        assert a.images.stride() == b.images.stride()


def test_small_images_are_padded_alike(make, small_beton):
    data = Dataset(small_beton)
    from loader import Schedule
    from loader.batch import Planner

    p = Planner(data, schedule=Schedule.full(epochs=1), batch_size=8, seed=5, crop="pad")
    todo = [p.plan(0, s) for s in range(5)]
    options = {"crop": "pad", "image_size": 40, "dtype": "uint8"}
    ours, reference = (
        produce(make(NativeCUDAEngine, data, **options), todo),
        produce(make(NativeEngine, data, **options), todo),
    )
    assert all(torch.equal(a.images.cpu(), b.images) for a, b in zip(ours, reference, strict=True))


def test_a_corrupt_sample_is_named_or_replaced(make, dataset, tmp_path):
    damaged = Dataset(damage(dataset.path, tmp_path / "x.beton", samples=(3,)))
    with pytest.raises(CorruptSampleError, match="sample 3 "):
        produce(make(NativeCUDAEngine, damaged), plans(damaged, 9))
    batches = produce(make(NativeCUDAEngine, damaged, on_corrupt="replace"), plans(damaged, 9))
    assert sum(b.replaced for b in batches) == 1 and sum(len(b.images) for b in batches) == 70
