"""Torch's random functions, drawing from a key: in one thread, and without touching the process's own generators.

A transform calls `torch.rand`, `tensor.uniform_` and so on, which draw from one generator that all threads share.
Seeding that one per sample would allow one sample at a time, and disturb the trainer. Instead, calls that are made in
this thread are given a generator of their own. Function modes of torch belong to a thread.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_NAMES = (
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli"),
    *("multinomial", "poisson", "binomial", "_standard_gamma", "_sample_dirichlet"),
)
_METHODS = (
    *("uniform_", "normal_", "random_", "bernoulli_", "bernoulli", "exponential_", "geometric_", "cauchy_"),
    *("log_normal_", "multinomial"),
)
_RANDOM = {getattr(torch, name) for name in _NAMES} | {getattr(torch.Tensor, name) for name in _METHODS}


class Draws(TorchFunctionMode):
    """While it is entered, torch's random functions draw from the key that `seed` was given last, in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self._key = 0
        self._generators: dict[torch.device, torch.Generator] = {}
        self._seeded: set[torch.device] = set()

    def seed(self, key: int) -> None:
        """Draw from a key, 0 … 2⁶⁴ − 1, from now on."""
        self._key = key
        self._seeded.clear()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM and kwargs.get("generator") is None:
            kwargs = {**kwargs, "generator": self._generator(_device(args, kwargs))}
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device)
        found = self._generators[device]
        if device not in self._seeded:
            found.manual_seed(self._key)
            self._seeded.add(device)
        return found


def _device(args: tuple, kwargs: dict[str, Any]) -> torch.device:
    """Where a call draws: the device that it names, or that of its first tensor."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
    first = next(tensors, None)
    return torch.device("cpu") if first is None else first.device
