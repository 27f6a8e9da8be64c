import copy

import pytest
import torch
from test_train import trainer

from bench import interleave
from bench.fake_cuda import FakeCUDA


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_warm_up_leaves_the_trainer_as_it_was(device):
    with FakeCUDA():  # of a GPU without bfloat16: float16 with a loss scale, which is counted on
        t = trainer(device=device)
        before = copy.deepcopy(t.state_dict())
        assert interleave.warm_up(t, samples=12, batch_size=8, image_size=8, classes=4) > 0
        after = t.state_dict()
        assert after["scaler"] == before["scaler"] and bool(before["scaler"]) == (device != "cpu")
        assert after["optimizer"] == before["optimizer"]
        for name, value in before["model"].items():
            assert torch.equal(value, after["model"][name])
