import pytest
import torch

from budgetloader.models import count, resnet, resnet20, resnet32, resnet56
from budgetloader.models.resnet import BasicBlock


@pytest.mark.parametrize(
    ("network", "parameters"),
    # Table 6 of the paper in full digits, with 10 classes and parameter-free shortcuts.
    [(resnet20, 269_722), (resnet32, 464_154), (resnet56, 853_018)],
)
def test_parameters_are_the_papers(network, parameters):
    counts = count(network(), (3, 32, 32))
    assert counts.parameters == parameters


def test_resnet56_has_its_flops_in_its_convolutions():
    """125 M: a 3×3×16×16 convolution at 32×32 costs 2.36 M, and so does each of the other stages'."""
    first, others = 3 * 16 * 9 * 32 * 32, 2 * (16 * 32 * 9 * 16 * 16)
    stages = (18 + 17 + 17) * 16 * 16 * 9 * 32 * 32
    linear_and_norms = 640 + 16 * 19 + 32 * 18 + 64 * 18
    assert count(resnet56(), (3, 32, 32)).flops == first + others + stages + linear_and_norms


def test_the_shortcut_takes_every_second_pixel_and_adds_empty_channels():
    block = BasicBlock(4, 8, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 4, 6, 6)
    y = block(x)
    torch.testing.assert_close(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any() and not y[:, 6:].any()


def test_any_image_size_goes():
    assert resnet20(classes=7)(torch.rand(2, 3, 20, 28)).shape == (2, 7)


@pytest.mark.parametrize("bad", [{"depth": 57}, {"depth": 2}, {"depth": 20, "classes": 0}])
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(ValueError, match="6n"):
        resnet(**bad)
