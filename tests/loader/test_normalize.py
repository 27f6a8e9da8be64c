import numpy as np
import pytest
import torch

from budgetloader.engines.base import DTYPES, LAYOUTS, Output
from budgetloader.engines.buffers import buffer_dtype, tone
from budgetloader.engines.normalize import Normalize
from budgetloader.resize import apply_tone

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)


def shown(pixels=PIXELS):
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_bits_are_those_of_an_engine_that_normalises_as_it_resizes(dtype, layout):
    output = Output(image_size=32, dtype=dtype, layout=layout)
    images = Normalize(output)(shown())
    expected = np.empty(PIXELS.shape, buffer_dtype(output))
    apply_tone(PIXELS, tone(output), expected)
    assert images.dtype == output.torch_dtype and images.shape == (2, 3, 40, 30)
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[images.element_size()]
    theirs = torch.from_numpy(expected.view(f"i{images.element_size()}" if dtype != "uint8" else "u1"))
    assert torch.equal(images.view(bits).permute(0, 2, 3, 1), theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("given", [shown(), shown().contiguous()], ids=["channels_last", "contiguous"])
def test_the_layout_is_the_outputs_whatever_the_pixels_is(layout, given):
    images = Normalize(Output(image_size=32, layout=layout))(given)
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert images.is_contiguous(memory_format=memory)


def test_fractions_are_cut_off():
    output = Output(image_size=32)
    assert torch.equal(Normalize(output)(shown().float() + 0.9), Normalize(output)(shown()))


def test_values_are_on_the_outputs_device():
    assert Normalize(Output(image_size=32, device="meta"))(shown()).device.type == "meta"
