"""What `connect` takes and refuses, without a service."""

import inspect
import logging
import threading
import time

import pytest

from budgetloader import BudgetLoader, EngineError, Schedule, ServiceGoneError, connect
from budgetloader.errors import ArgumentError
from budgetloader.service import client, registry

OPTIONS = {"schedule": Schedule.full(epochs=1), "batch_size": 8, "image_size": 8}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path / "known"))


def keywords(function):
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind == p.KEYWORD_ONLY}


def test_connect_has_the_loaders_keywords_with_its_defaults():
    """A new keyword of BudgetLoader belongs to `connect`, too, or among what it refuses with a reason."""
    loaders, own = keywords(BudgetLoader), keywords(connect)
    assert set(loaders) - set(own) == set(client._REFUSED)
    assert set(own) - set(loaders) == {"mixture", "label", "wait_seconds"}
    required = {"schedule", "batch_size", "image_size"}
    assert {name for name, default in own.items() if default is inspect.Parameter.empty} == required
    assert all(own[name] == loaders[name] for name in set(own) & set(loaders) - required)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"engine": "dali"}, ArgumentError, "engine='dali': the service decodes"),
        ({"workers": 4}, ArgumentError, "workers=4: `budgetloader serve --workers`"),
        ({"train": False}, ArgumentError, "train=False: evaluation is not shared"),
        ({"sampling": "cyclic"}, ArgumentError, "sampling='cyclic': only sampling='independent'"),
        ({"num_workers": 4}, TypeError, "num_workers=4 is not known here: `budgetloader serve --workers`"),
        ({"shuffle": True}, TypeError, "shuffle=True is not known here: every epoch is shuffled afresh"),
        ({"pin_memory": True}, TypeError, "pin_memory=True is not known here: .* device='cuda'"),
        ({"on_corupt": "raise"}, TypeError, r"on_corupt=raise is not known here: did you mean on_corrupt=\?"),
        ({"qqqq": 1}, TypeError, "qqqq=1 is not known here: there are schedule, batch_size, image_size"),
        ({"wait_seconds": -1}, ArgumentError, "wait_seconds -1 is no time"),
        ({"wait_seconds": float("nan")}, ArgumentError, "wait_seconds nan"),
        ({"wait_seconds": "5"}, ArgumentError, "wait_seconds '5'"),
    ],
)
def test_what_connect_does_not_have_is_refused_with_advice(options, error, why):
    with pytest.raises(error, match=why):
        connect("any", **OPTIONS, **options)


def test_what_says_the_same_as_connect_does_is_accepted():
    with pytest.raises(ServiceGoneError, match="there is no service 'any'"):
        connect("any", **OPTIONS, train=True, sampling="independent")


def test_a_service_that_is_not_running_is_an_error_of_its_own():
    with pytest.raises(ServiceGoneError, match=r"there is no service 'any' \(running: none\)"):
        connect("any", **OPTIONS)
    assert issubclass(ServiceGoneError, EngineError)


class _Bridge:
    """A bridge that finds its service once `ready` is set."""

    ready = threading.Event()

    def __init__(self, entry, *, label):
        self.label = label
        if not self.ready.is_set():
            raise ServiceGoneError("service 'any' is gone")


def test_connect_waits_for_a_service_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(client, "Bridge", _Bridge)
    monkeypatch.setattr(client.registry, "find", lambda name: None)
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.01)
    threading.Timer(0.2, _Bridge.ready.set).start()
    with caplog.at_level(logging.WARNING, logger="budgetloader"):
        assert client._connect("any", label="x" * 999, wait_seconds=600).label == "x" * 200
    assert [record.message for record in caplog.records] == [
        "waiting for service 'any', up to 600 s: service 'any' is gone"
    ]


def test_connect_waits_no_longer_than_it_is_told(monkeypatch):
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.01)
    began = time.monotonic()
    with pytest.raises(ServiceGoneError):
        connect("any", **OPTIONS, wait_seconds=0.3)
    assert time.monotonic() - began >= 0.3
