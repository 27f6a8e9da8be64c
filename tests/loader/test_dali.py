import numpy as np
import pytest
import torch
from test_engines import create, plans, produce
from test_upload import engine_job

from budgetloader import engines
from budgetloader.engines.base import Job, Output

pytestmark = pytest.mark.skipif(not engines.installed("dali"), reason="dali is not installed")


def produced(dataset, todo, **options):
    from budgetloader.engines.dali import DALIEngine

    output = {name: options.pop(name) for name in ("interpolation", "image_size", "dtype") if name in options}
    output = Output(**{"image_size": 48, "dtype": "uint8", **output})
    job = Job(dataset, output, batch_size=8, workers=2, capacity=2, on_corrupt="raise", replacement=None)
    engine = DALIEngine(job, **options)
    try:
        return produce(engine, todo)
    finally:
        engine.close()


@pytest.mark.parametrize("interpolation", ["antialias", "linear"])
def test_cropped_bytes_decoded_whole_and_sliced_are_the_decoders_own_window(dataset, interpolation):
    """What the pipeline does on a GPU, on the CPU."""
    todo = plans(dataset, 9)
    ours = produced(dataset, todo, interpolation=interpolation, cropped=True)
    theirs = produced(dataset, todo, interpolation=interpolation, cropped=False)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_no_region_is_asked_of_a_gpus_decoder(dataset, monkeypatch):
    """nvImageCodec 0.9 crashes on some; and DALI's own default would blur chroma otherwise than libjpeg-turbo."""
    from budgetloader.engines import dali

    asked = {}

    def image(jpegs, **options):
        asked.update(options)
        return dali.dali.fn.decoders.__dict__["image_cpu"](jpegs, output_type=options["output_type"])

    decoders = dali.dali.fn.decoders
    monkeypatch.setitem(decoders.__dict__, "image_cpu", decoders.image)
    monkeypatch.setattr(decoders, "image", image)
    monkeypatch.setattr(decoders, "image_slice", None)
    job = engine_job(dataset, device="cpu")
    tuning = dali.Tuning(hardware_share=0.8, preallocate_width=500)
    pipe = dali._decoded
    monkeypatch.setattr(
        dali, "_decoded", lambda jpegs, device, *how, **also: pipe(jpegs, torch.device("cuda:0"), *how, **also)
    )
    assert dali._build(job, tuning=tuning, cropped=True) is not None
    assert asked["device"] == "mixed" and asked["jpeg_fancy_upsampling"] and not asked["adjust_orientation"]
    assert asked["hw_decoder_load"] == 0.8 and asked["preallocate_width_hint"] == 500


def test_nvimagecodecs_decoder_gets_the_same_pixels_out_of_cropped_bytes(dataset):
    """Its parser is the one that gets these bytes on a GPU; its CPU backend is its own build of libjpeg-turbo."""
    nvimgcodec = pytest.importorskip("nvidia.nvimgcodec")

    from budgetloader.jpeg import Cropper

    cpu = [nvimgcodec.Backend(nvimgcodec.BackendKind.CPU_ONLY)]
    decoder = nvimgcodec.Decoder(device_id=nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY, backends=cpu)
    cropper = Cropper()
    for plan in plans(dataset, 9):
        for sample, (top, left, height, width) in zip(plan.samples, plan.windows.tolist(), strict=True):
            whole = np.asarray(decoder.decode(dataset.jpeg(sample).tobytes()))
            part, y, x = cropper.crop(dataset.jpeg(sample), top=top, left=left, height=height, width=width)
            pixels = np.asarray(decoder.decode(part.tobytes()))
            window = pixels[top - y : top - y + height, left - x : left - x + width]
            np.testing.assert_array_equal(window, whole[top : top + height, left : left + width])


def test_a_pipeline_that_fails_by_itself_says_so_and_decodes_nowhere_else(dataset, monkeypatch):
    from budgetloader import EngineError
    from budgetloader.engines import dali

    def fail(self, plan):
        raise RuntimeError("CUDA allocation failed")

    monkeypatch.setattr(dali._Maker, "_take", fail)
    engine = create("dali", dataset)
    with pytest.raises(EngineError, match="DALI failed: CUDA allocation failed"):
        produce(engine, plans(dataset, 2))
    engine.close()
