"""The CR module as a replacement for the 1×1 convolutions of any network (section 3.1)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection

import torch
from torch import nn

from budgetloader.models.layers import Ghost, Kind, conditional

_OTHER: dict[Kind, Kind] = {"gc": "c1dw", "c1dw": "gc"}
_RULES: dict[str, Callable[[int, int], Kind]] = {
    "cr": conditional,
    "inverse": lambda inputs, outputs: _OTHER[conditional(inputs, outputs)],
    "ghost": lambda inputs, outputs: "c1dw",
    "group": lambda inputs, outputs: "gc",
}


def compress(
    model: nn.Module, *, rule: str = "cr", groups: int = 2, alpha: float = 0.5, keep: Collection[str] = ()
) -> nn.Module:
    """A copy of a network with its dense 1×1 convolutions replaced by cheaper ones.

    `gc` is the convolution in groups (its bias is kept); `c1dw` is a Ghost module with its batch
    normalisations. The network's own normalisations and activations stay where they are. The new
    layers' weights are new: the network is to be trained afterwards.

    Args:
        model: any network.
        rule: "cr" (c1dw where channels grow, else gc), "inverse" (the other way round), "ghost"
            (c1dw everywhere) or "group" (gc everywhere).
        groups: of `gc`. A convolution whose channels they do not divide is left as it is.
        alpha: of `c1dw`, the share of channels made densely.
        keep: names of modules, as in `named_modules`, that are left as they are with all in them.

    Raises:
        ValueError: the rule is not known, a name in `keep` is of no module, or nothing is replaced.
    """
    if rule not in _RULES:
        raise ValueError(f"rule {rule!r} is not known; give one of {', '.join(_RULES)}")
    if groups < 1 or not 0 < alpha <= 1:
        raise ValueError(f"groups {groups} and alpha {alpha}: give at least 1, and one in (0, 1]")
    unknown = set(keep) - {name for name, _ in model.named_modules()}
    if unknown:
        raise ValueError(f"keep has {sorted(unknown)[0]!r}, which is no module of the network")
    compressed = copy.deepcopy(model)
    replaced = 0
    for name, conv in list(compressed.named_modules()):
        kept = any(name == other or name.startswith(other + ".") for other in keep)
        if kept or not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) or conv.groups != 1:
            continue
        new = _replacement(conv, _RULES[rule](conv.in_channels, conv.out_channels), groups=groups, alpha=alpha)
        if new is None:
            continue
        new.to(device=conv.weight.device, dtype=conv.weight.dtype).train(conv.training)
        path, _, last = name.rpartition(".")
        if not name:
            return new
        setattr(compressed.get_submodule(path), last, new)
        replaced += 1
    if not replaced:
        raise ValueError("the network has no dense 1×1 convolution that could be replaced; lower groups or keep less")
    return compressed


def _replacement(conv: nn.Conv2d, kind: Kind, *, groups: int, alpha: float) -> nn.Module | None:
    inputs, outputs = conv.in_channels, conv.out_channels
    if kind == "c1dw":
        if conv.stride[0] != conv.stride[1] or conv.padding not in ((0, 0), "valid", "same"):
            return None
        return Ghost(inputs, outputs, alpha=alpha, stride=conv.stride[0])
    if inputs % groups or outputs % groups:
        return None
    grouped = copy.deepcopy(conv)
    grouped.groups = groups
    shape = (outputs, inputs // groups, 1, 1)
    grouped.weight = nn.Parameter(torch.empty(shape, device=conv.weight.device, dtype=conv.weight.dtype))
    grouped.reset_parameters()
    return grouped
