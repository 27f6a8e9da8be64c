"""The map in CONTRIBUTING is what the imports say."""

import importlib.util

import pytest
from conftest import ROOT

_SPEC = importlib.util.spec_from_file_location("house", ROOT / "tools" / "house.py")
house = importlib.util.module_from_spec(_SPEC)


@pytest.fixture(scope="module", autouse=True)
def loaded():
    import sys

    sys.modules["house"] = house  # dataclasses look their module up
    _SPEC.loader.exec_module(house)


def test_the_picture_is_what_the_imports_say(capsys):
    assert house.main(["--check"]) == 0, capsys.readouterr().out
    assert "](docs/house.svg)" in (ROOT / "CONTRIBUTING.md").read_text()


def test_every_module_has_one_room():
    found = house.sources()
    placed = house.rooms(house.imports(found))
    assert sorted(name for names in placed.values() for name in names) == sorted(found)
    for room, module in (
        ("plans", "order"),
        ("files", "jpeg"),
        ("engines", "engines.native"),
        ("loader", "sampler"),
        ("service", "service.server"),
        ("commands", "cli"),
        ("models", "models.fit"),
        ("bench", "bench.imagenet_mnv2"),
    ):
        assert module in placed[room]


def test_a_new_import_changes_the_picture_and_one_that_leads_up_is_refused(monkeypatch):
    found, before = house.sources(), house.picture()
    monkeypatch.setattr(house, "sources", lambda root: found | {"models.resnet": "import budgetloader.order"})
    assert house.picture() != before
    monkeypatch.setattr(house, "sources", lambda root: found | {"order": "def f():\n    import budgetloader.service"})
    with pytest.raises(house.HouseError, match="plans must not need service: order imports service"):
        house.picture()
