import json
import re

import pytest
from conftest import ROOT

from budgetloader.bench import quoted


def test_pages_say_what_their_records_say():
    assert quoted.main(["--check"]) == 0


def test_every_quoted_record_has_its_command():
    text = "".join((ROOT / page).read_text() for page in quoted.PAGES)
    quotes = re.findall(r"<!-- quote:([\w-]+) -->", text)
    assert len(quotes) >= 4
    for name, _ in (quoted.QUOTES[quote] for quote in quotes):
        record = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())
        assert re.match(r"python -m (budgetloader\.)?bench\.", record["command"])


def test_readmes_rates_are_those_of_the_table_that_is_made_from_the_record():
    rates = re.findall(r"[\d,]+ \(\d+\)", (ROOT / "README.md").read_text())
    assert len(rates) > 5
    assert [rate for rate in rates if f"| {rate} |" not in (ROOT / "docs" / "results.md").read_text()] == []


def test_a_figure_that_was_changed_by_hand_is_found(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text()
    table = re.search(r"<!-- quote:demo -->.*?<!-- /quote -->", text, re.S)[0]
    digit = re.search(r"0\.\d{4}", table)[0]
    for page in quoted.PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        (tmp_path / page).write_text((ROOT / page).read_text())
    (tmp_path / "README.md").write_text(text.replace(digit, "0.6180" if digit != "0.6180" else "0.6181"))
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    monkeypatch.setattr(quoted, "ROOT", tmp_path)
    assert quoted.main(["--check"]) == 1 and "does not say" in capsys.readouterr().out
    assert quoted.main([]) == 0 and quoted.main(["--check"]) == 0
    assert (tmp_path / "README.md").read_text() == text


def test_a_quote_that_is_not_known_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="wish"):
        quoted.filled("<!-- quote:wish -->\n<!-- /quote -->", records=tmp_path)
