"""`budgetloader.connect`: a loader whose batches come from a running service."""

from __future__ import annotations

import inspect
import logging
import math
import os
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from budgetloader.engines.base import Job, OnCorrupt, Work
from budgetloader.engines.base_threaded import ThreadedEngine
from budgetloader.errors import ArgumentError, ArgumentTypeError, EngineError, ServiceGoneError
from budgetloader.joined import Mixture
from budgetloader.loader import BudgetLoader
from budgetloader.options import refuse_unexpected
from budgetloader.resize import Interpolation
from budgetloader.schedule import Schedule
from budgetloader.service import SHARE, registry
from budgetloader.service.blocks import BLOCK
from budgetloader.service.connection import Bridge
from budgetloader.service.maker import BridgeMaker
from budgetloader.service.protocol import StatusRequest
from budgetloader.service.status import ServiceStatus
from budgetloader.sizes import one_size

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike

    from budgetloader.selections import ScoreSelection, Selection

_LABEL_LETTERS = 200
_RETRY_SECONDS = 0.5
_STAND_INS = (
    "the samples that stand in for others are of the whole set over a service; give on_corrupt='raise', or make a "
    "BudgetLoader from the file"
)
_log = logging.getLogger("budgetloader")
# What BudgetLoader takes and connect does not, the values that say nothing else than connect does, and why.
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "engine": ((), "the service decodes; leave it out"),
    "workers": ((), "`budgetloader serve --workers` says how many there are; leave it out"),
    "train": ((True,), "evaluation is not shared; make a BudgetLoader from the file"),
    "views": ((1,), "a service decodes one crop of each sample; make a BudgetLoader from the file"),
    "crops": ((None,), "they are of an evaluation, which is not shared; make a BudgetLoader from the file"),
    "sampling": (
        ("independent",),
        "only sampling='independent' can be shared: it is the order that the service decodes ahead in",
    ),
    "decode_scaling": ((False,), "a service decodes images whole, for all of its trainers; leave it out"),
    "fast_decode": ((False,), "a service decodes exactly, for all of its trainers; leave it out"),
    "cache": ((None,), "the service has the dataset; leave it out"),
    "cache_bytes": ((None,), "the service has the dataset; leave it out"),
    "label_field": ((None,), "the service opens the file, and takes the field named 'label'; leave it out"),
}
# What else does not mean the same over a service as for a BudgetLoader (see `budgetloader.options`).
_ADVICE = {
    "num_workers": "`budgetloader serve --workers` says how many processes decode; leave it out",
    "shuffle": "every epoch is shuffled afresh, by seed=; leave it out",
    "order": "every epoch is shuffled afresh, by seed=; leave it out",
    "dataset": "the first argument is the service's name",
}


_OWN = ("name", "label", "wait_seconds", "unknown")  # what `connect` has for the connection, and no loader needs


def connect(
    name: str,
    *,
    schedule: Schedule,
    batch_size: int,
    image_size: int,
    device: str | torch.device = "cpu",
    seed: int = 0,
    dtype: str | torch.dtype = "float32",
    layout: str = "channels_last",
    interpolation: Interpolation = "antialias",
    crop: str = "auto",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    prefetch: int = 3,
    rank: int | None = None,
    world_size: int | None = None,
    transform: Any = None,
    mixture: Mixture | None = None,
    samples: ArrayLike | str | None = None,
    weights: ArrayLike | str | None = None,
    selection: Selection | ScoreSelection | None = None,
    on_corrupt: OnCorrupt = "raise",
    verify: bool = False,
    targets: Any = None,
    channels: int = 3,
    with_ids: bool = False,
    label: str | None = None,
    wait_seconds: float = 0.0,
    **unknown: Any,
) -> BudgetLoader:
    """A `BudgetLoader` whose images come from a running service.

    Its batches are those of a `BudgetLoader` of the service's file, bit for bit. Trainers share the decoding where
    they agree in seed, image_size, interpolation, crop, channels and on_corrupt, and draw the same samples (see
    docs/selecting.md); the service decodes blocks of 256 images, a few ahead of the foremost trainer.

    Args:
        name: the service's, as `budgetloader serve --name` was given it.
        schedule, batch_size, image_size, device, seed, dtype, layout, interpolation, crop, mean, std, prefetch, rank,
            world_size, samples, weights, selection, transform (which runs in this process), on_corrupt, channels,
            with_ids: as for `BudgetLoader`.
        mixture: in which proportions to draw from the service's files, each named by its path or its file name.
        targets: as for `BudgetLoader`; fields are read from a copy of the file on this machine, at the service's path.
        verify: require that the service compares checksums (`budgetloader serve --verify`). Of such a service, fields
            that are read here are compared, too.
        label: what `budgetloader top` calls this trainer, at most 200 letters; default: host and process.
        wait_seconds: how long to wait for a service that is not running (yet, or again).
        unknown: none; the error says what to use instead.

    Raises:
        ServiceGoneError: the service is not running, or ended: here and in every later call, within 5 seconds. Connect
            again, and `load_state_dict` to go on; `examples/reconnect.py` shows how.
        ArgumentError: an argument that a service does not have, or that cannot be used.
        EngineError: the service refuses what it is asked for, or its memory is too small for it.
    """
    options = {keyword: value for keyword, value in locals().items() if keyword not in _OWN}
    options["image_size"] = one_size(image_size, where="a service")
    _refuse(unknown)
    return _loader(_connect(name, label=label, wait_seconds=wait_seconds), options)


def status(name: str) -> ServiceStatus:
    """What a service is doing.

    Raises:
        ServiceGoneError: it is not running.
    """
    bridge = Bridge(registry.find(name), label="status")
    try:
        return bridge.ask(StatusRequest(), ServiceStatus)[0]
    finally:
        bridge.close()


def _refuse(unknown: dict[str, Any]) -> None:
    """Say of each keyword that `connect` does not have what to do instead."""
    for keyword, value in unknown.items():
        if keyword in _REFUSED:
            allowed, why = _REFUSED[keyword]
            if value not in allowed:
                raise ArgumentError(f"{keyword}={value!r}: {why}")
        elif keyword in _ADVICE:
            raise ArgumentTypeError(f"{keyword}={str(value)[:60]} is not known here: {_ADVICE[keyword]}")
        else:
            known = [p.name for p in inspect.signature(connect).parameters.values() if p.kind == p.KEYWORD_ONLY]
            refuse_unexpected({keyword: value}, known=known)


def _connect(name: str, *, label: str | None, wait_seconds: float) -> Bridge:
    """A bridge to a service, at the latest after some time."""
    if not isinstance(name, str):
        raise ArgumentTypeError(
            f"name is a {type(name).__name__}, and not the name of a service; `budgetloader serve` takes several "
            "files, and mixture= says in which proportions to draw from them"
        )
    if isinstance(wait_seconds, bool) or not isinstance(wait_seconds, (int, float)) or not 0 <= wait_seconds < math.inf:
        raise ArgumentError(f"wait_seconds {wait_seconds!r} is no time; give seconds, 0 or more")
    label = (f"{socket.gethostname()}:{os.getpid()}" if label is None else str(label))[:_LABEL_LETTERS]
    deadline = time.monotonic() + wait_seconds
    said = False
    while True:
        try:
            return Bridge(registry.find(name), label=label)
        except ServiceGoneError as error:
            if time.monotonic() >= deadline:
                raise
            if not said:
                _log.warning("waiting for service %r, up to %g s: %s", name, wait_seconds, error)
                said = True
            time.sleep(min(_RETRY_SECONDS, max(0.0, deadline - time.monotonic())))


def _loader(bridge: Bridge, options: dict[str, Any]) -> BudgetLoader:
    """A loader whose engine is a service; the bridge is closed with it."""
    schedule, batch_size, seed = (options[name] for name in ("schedule", "batch_size", "seed"))

    made: list[BridgeMaker] = []

    def engine(job: Job) -> ThreadedEngine:
        work = Work()
        _check_memory(bridge, job)
        budget = schedule.budget(len(bridge.index), batch_size=batch_size)
        maker = BridgeMaker(job, work, bridge, budget=budget, seed=seed)
        made.append(maker)
        return ThreadedEngine(maker, capacity=job.capacity, work=work, name=f"service-{bridge.entry.name}")

    engine.engine_name = f"service:{bridge.entry.name}"  # type: ignore[attr-defined]
    try:
        _check_stand_ins(options)
        mixture = options.pop("mixture")
        if mixture is not None:
            if not isinstance(mixture, Mixture):
                raise ArgumentTypeError(
                    f"mixture={mixture!r} is a {type(mixture).__name__}; give a budgetloader.Mixture"
                )
            bridge.index.mix(mixture)
        loader = BudgetLoader(bridge.index, engine=engine, **options)
        made[0].follow(loader.chosen)
        if options["on_corrupt"] == "replace":
            loader.refuse_select(_STAND_INS)
        return loader
    except BaseException:
        bridge.close()
        raise


def _check_stand_ins(options: dict[str, Any]) -> None:
    """Refuse to have samples replaced by others that a trainer does not draw."""
    if options["on_corrupt"] == "replace":
        for name in ("samples", "weights", "selection", "mixture"):
            if options[name] is not None:
                raise ArgumentError(f"{name}= with on_corrupt='replace': {_STAND_INS}")


def _check_memory(bridge: Bridge, job: Job) -> None:
    """Refuse what the service's memory could never hold: one batch's blocks and two more."""
    least = (job.batch_size // BLOCK + 3) * BLOCK * job.output.image_size**2 * job.output.channels
    if least > bridge.index.capacity_bytes:
        raise EngineError(
            f"batches of {job.batch_size} images of {job.output.image_size} pixels need {least:,} bytes of blocks, and "
            f"service {bridge.entry.name!r} keeps {bridge.index.capacity_bytes:,}; serve with at least "
            f"--memory {math.ceil(least / SHARE / 1e6)}MB"
        )
