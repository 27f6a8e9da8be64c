import itertools

import pytest
import torch
import torchvision
from torch import nn

from budgetloader.models import compress, count, mobilenet_v2
from budgetloader.models.layers import Ghost


def kinds(model):
    """Of each 1×1 layer that was replaced: what it became."""
    ghosts = {name for name, m in model.named_modules() if isinstance(m, Ghost)}
    inside = tuple(g + "." for g in ghosts)
    grouped = {
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and m.groups > 1 and not name.startswith(inside)
    }
    return ghosts, grouped


def pattern(*channels):
    return nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in itertools.pairwise(channels)))


@pytest.mark.parametrize(
    ("rule", "ghosts", "grouped"),
    [
        ("cr", {"0"}, {"1", "2"}),
        ("inverse", {"1", "2"}, {"0"}),
        ("ghost", {"0", "1", "2"}, set()),
        ("group", set(), {"0", "1", "2"}),
    ],
)
def test_each_rule_looks_at_the_channels(rule, ghosts, grouped):
    compressed = compress(pattern(4, 8, 4, 4), rule=rule)  # grows, shrinks, stays
    assert kinds(compressed) == (ghosts, grouped)
    assert compressed(torch.rand(2, 4, 5, 5)).shape == (2, 4, 5, 5)


@pytest.mark.parametrize("make", [mobilenet_v2, torchvision.models.resnet50, torchvision.models.mobilenet_v3_small])
@pytest.mark.parametrize("rule", ["cr", "ghost", "group", "inverse"])
def test_real_networks_get_smaller_and_keep_their_shapes(make, rule):
    network = make()
    compressed = compress(network, rule=rule, groups=4, alpha=0.25)
    assert compressed(torch.rand(2, 3, 64, 64)).shape == (2, 1000)
    before, after = count(network, (3, 64, 64)), count(compressed, (3, 64, 64))
    assert after.parameters < before.parameters and after.flops < before.flops


def test_the_network_that_is_given_stays_as_it_is():
    network = pattern(4, 8)
    compress(network)
    assert isinstance(network[0], nn.Conv2d) and network[0].groups == 1


def test_strides_biases_dtypes_and_modes_are_kept():
    network = nn.Sequential(nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(8, 4, 1, bias=True)).double().eval()
    compressed = compress(network)
    assert compressed(torch.rand(1, 4, 6, 6, dtype=torch.float64)).shape == (1, 4, 3, 3)
    assert compressed[1].bias is not None and not compressed[0].training


def test_what_is_to_be_kept_is_kept():
    network = nn.ModuleDict({"stem": pattern(4, 8), "body": pattern(8, 4)})
    assert kinds(compress(network, keep=["stem"])) == (set(), {"body.0"})


def test_a_single_convolution_is_replaced_too():
    assert isinstance(compress(nn.Conv2d(4, 8, 1)), Ghost)


def test_channels_that_the_groups_do_not_divide_are_left():
    assert kinds(compress(pattern(9, 8, 4), rule="group")) == (set(), {"1"})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"rule": "best"}, "'best'"),
        ({"groups": 0}, "groups 0"),
        ({"alpha": 1.5}, "alpha 1.5"),
        ({"keep": ["nothing"]}, "'nothing'"),
        ({"keep": ["0", "1"]}, "no dense 1×1"),
    ],
)
def test_what_cannot_be_done_is_said(options, why):
    with pytest.raises(ValueError, match=why):
        compress(pattern(4, 8, 4), **options)
