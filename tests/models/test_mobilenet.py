import pytest
import torch
import torchvision

from budgetloader.models import mobilenet_v2


@pytest.mark.parametrize("width", [0.35, 0.5, 0.75, 1.0, 1.4])
def test_mobilenet_v2_has_torchvisions_parameters(width):
    def count(model):
        return sum(p.numel() for p in model.parameters())

    assert count(mobilenet_v2(width=width)) == count(torchvision.models.mobilenet_v2(width_mult=width))


def test_mobilenet_v2_computes_what_torchvisions_does():
    ours, theirs = mobilenet_v2(classes=10).eval(), torchvision.models.mobilenet_v2(num_classes=10).eval()
    names = dict(zip(theirs.state_dict(), ours.state_dict(), strict=True))
    ours.load_state_dict({names[k]: v for k, v in theirs.state_dict().items()})
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [{"classes": 0}, {"width": 0}])
def test_impossible_sizes_are_refused(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        mobilenet_v2(**bad)
