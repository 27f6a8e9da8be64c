import pytest
import torch

from budgetloader.bench.crnet import IMAGE, build, main
from budgetloader.bench.dissertation import COMPRESSED
from budgetloader.models import count, crnet_cb, crnet_cib, ghostnet_style, resnet50_style

NETWORKS = [row for row in COMPRESSED if row.batch_size == 256]


def test_there_are_48_networks_in_the_tables():
    assert len(COMPRESSED) == 96 and len(NETWORKS) == 48
    assert len({(r.network, r.classes, r.expansion, r.groups, r.alpha, r.strategy) for r in NETWORKS}) == 48


@pytest.mark.parametrize("row", NETWORKS, ids=lambda r: f"{r.table}-{r.expansion}-{r.groups}-{r.strategy}")
def test_parameters_and_flops_are_the_tables_to_every_digit(row):
    counted = count(build(row, row.classes), IMAGE)
    assert (f"{counted.parameters / 1e6:.2f}", f"{counted.flops / 1e6:.2f}") == (row.parameters, row.flops)


@pytest.mark.slow
def test_the_counts_command_agrees_and_can_disagree(capsys, monkeypatch):
    assert main(["--counts"]) == 0
    assert "all 48 agree" in capsys.readouterr().out
    wrong = [*COMPRESSED[:5], COMPRESSED[6], *COMPRESSED[6:]]
    import dataclasses

    wrong[5] = dataclasses.replace(COMPRESSED[5], flops="43.20")
    monkeypatch.setattr("budgetloader.bench.crnet.COMPRESSED", tuple(wrong))
    assert main(["--counts"]) == 1
    assert "1 of 48 differ" in capsys.readouterr().out


@pytest.mark.parametrize("make", [crnet_cb, crnet_cib])
@pytest.mark.parametrize("strategy", ["gc-gc", "gc-c1dw", "c1dw-gc", "c1dw-c1dw", "dense-dense"])
def test_it_classifies_and_every_parameter_learns(make, strategy):
    network = make(classes=7, strategy=strategy)
    network(torch.rand(4, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert network.eval()(torch.rand(2, 3, 16, 16)).shape == (2, 7)


def test_the_backbones_cost_more_than_what_is_made_of_them():
    for backbone, compressed in ((resnet50_style, crnet_cb), (ghostnet_style, crnet_cib)):
        assert count(backbone(), IMAGE).flops > 1.2 * count(compressed(), IMAGE).flops


def test_activation_and_dropout_are_options():
    network = crnet_cib(activation=torch.nn.Hardswish, dropout=0.2)
    kinds = [type(m) for m in network.modules()]
    assert kinds.count(torch.nn.Hardswish) >= 16 and torch.nn.Dropout in kinds


@pytest.mark.parametrize(
    "bad", [{"strategy": "gc"}, {"strategy": "gc-dw"}, {"classes": 0}, {"expansion": 0}, {"groups": 3}, {"alpha": 2}]
)
@pytest.mark.parametrize("make", [crnet_cb, crnet_cib])
def test_impossible_networks_are_refused(make, bad):
    with pytest.raises(ValueError, match=str(next(iter(bad.values())))):
        make(**{"strategy": "gc-c1dw", **bad})
