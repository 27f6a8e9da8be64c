import pytest
import torch
from torch import nn

from budgetloader.models import count


def test_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=True),  # 216 weights at 4×5
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    counts = count(network, (3, 8, 10))
    assert counts.flops == 216 * 20 + 8 + 40
    assert counts.parameters == 216 + 8 + 16 + 45


def test_what_is_frozen_is_no_parameter():
    network = nn.Conv2d(1, 1, 1, bias=False).requires_grad_(False)
    assert count(network, (1, 2, 2)).parameters == 0


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    network[1].eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    count(network, (3, 4, 4))
    assert network.training and not network[1].training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not network[0]._forward_hooks


@pytest.mark.parametrize("shape", [(3, 8), (0, 8, 8)])
def test_no_shape_of_an_image_is_refused(shape):
    with pytest.raises(ValueError, match="channels, height, width"):
        count(nn.Conv2d(3, 4, 1), shape)


def test_a_shape_that_the_network_does_not_take_is_said():
    with pytest.raises(ValueError, match="does not take"):
        count(nn.Conv2d(3, 4, 1), (4, 8, 8))
