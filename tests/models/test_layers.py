import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from budgetloader.models.layers import Ghost, conditional, grouped, pointwise


@given(st.integers(1, 40), st.integers(1, 60), st.floats(0.02, 1), st.integers(1, 2))
@settings(max_examples=50)
def test_a_ghost_module_has_its_outputs_whatever_alpha(inputs, outputs, alpha, stride):
    y = Ghost(inputs, outputs, alpha=alpha, stride=stride)(torch.rand(2, inputs, 5, 7))
    assert y.shape == (2, outputs, -(-5 // stride), -(-7 // stride))


def test_the_cheap_channels_are_made_of_the_dense_ones():
    ghost = Ghost(6, 9, alpha=0.5).eval()  # 5 dense, 5 cheap, of which 4 are kept
    x = torch.rand(1, 6, 4, 4)
    dense = ghost.dense(x)
    torch.testing.assert_close(ghost(x), torch.cat((dense, ghost.cheap(dense)[:, :4]), 1))
    assert ghost.cheap[0].groups == 5 and ghost.cheap[0].kernel_size == (3, 3)


def test_alpha_one_is_a_dense_layer():
    assert Ghost(4, 8, alpha=1.0).cheap is None


def test_activations_are_behind_each_part():
    ghost = Ghost(4, 8, alpha=0.5, activation=nn.ReLU)
    assert isinstance(ghost.dense[-1], nn.ReLU) and isinstance(ghost.cheap[-1], nn.ReLU)
    assert isinstance(grouped(4, 8, groups=2, activation=nn.ReLU)[-1], nn.ReLU)


def test_the_cr_module_looks_at_the_pattern():
    assert (conditional(16, 64), conditional(64, 16), conditional(16, 16)) == ("c1dw", "gc", "gc")


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: grouped(6, 8, groups=4), "groups 4"),
        (lambda: grouped(8, 6, groups=0), "groups 0"),
        (lambda: Ghost(4, 4, alpha=0), "alpha 0"),
        (lambda: pointwise("dw", 4, 4, groups=1, alpha=1), "'dw'"),
    ],
)
def test_impossible_layers_are_refused(make, why):
    with pytest.raises(ValueError, match=why):
        make()
