"""Whole trainings from a real S3 server that are killed in mid-epoch and resumed: a short version of the bench."""

import pytest

from budgetloader import engines
from budgetloader.bench import storage_resume
from budgetloader.bench.stores import late

QUICK = [("native", "none", 1), ("native", "half", 4), ("dali", "half", 1), ("synthetic", "half", 1)]
CASES = [
    *((engine, cache, 1) for engine in storage_resume.ENGINES for cache in ("none", "half")),
    ("native", "whole", 2),
    ("native", "half", 4),
    ("dali", "whole", 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "cache", "ranks"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.long) for case in CASES],
)
def test_a_training_that_is_killed_goes_on_with_the_batches_of_the_local_file(
    s3, on_s3, beton, small_beton, tmp_path, engine, cache, ranks
):
    if not engines.installed(engine):
        pytest.skip(f"{engine} is not installed")
    local = small_beton if engine == "resident" else beton
    with late(s3.port, seconds=0.005) as port:
        found = storage_resume.resumed(
            local,
            on_s3[local],
            folder=tmp_path / "run",
            engine=engine,
            cache=cache,
            ranks=ranks,
            kills=3,
            configured=s3.environment(port),
        )
    assert (found["kills"], found["wrong"], found["missing"]) == (3, 0, 0)
    assert found["batches"] >= 12 * 5 * ranks


def test_the_comparison_can_fail(beton, tmp_path, monkeypatch):
    job = {"path": str(beton), "engine": "native", "ranks": 1, "seed": 0, "folder": str(tmp_path), "environment": {}}
    storage_resume.train(job, 0)
    good = storage_resume._compared(beton, job)
    assert good["batches"] > 0 and (good["wrong"], good["missing"], good["repeated"]) == (0, 0, 0)
    log = tmp_path / "log-0"
    first, second, *rest = log.read_text().strip().splitlines()
    log.write_text("\n".join([first.replace('"', '"0', 1), second, second, *rest[:-1], rest[-1][:-9]]))
    bad = storage_resume._compared(beton, job)
    assert (bad["wrong"], bad["missing"], bad["repeated"]) == (1, 1, 1)
