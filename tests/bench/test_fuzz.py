"""A short run of what `python -m budgetloader.bench.fuzz` runs for minutes."""

import pytest

from budgetloader.bench.fuzz_cases import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_stranger_could_have_made_is_accepted_or_refused(kind, tmp_path):
    corpus = KINDS[kind](tmp_path)
    answers = [corpus.run(1, number) for number in range(300)]
    assert any(answers) and not all(answers), "cases of one answer alone test little"
