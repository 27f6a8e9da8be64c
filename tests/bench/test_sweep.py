import argparse

import pytest

pytest.importorskip("ray")

from budgetloader.bench import sweep
from budgetloader.service import registry


@pytest.mark.long
def test_trainers_of_a_sweep_share_what_the_service_decodes(beton, tmp_path, monkeypatch):
    monkeypatch.setenv(registry.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = argparse.Namespace(batch_size=8, epochs=1, images=70, trainers=2, image_size=32, dtype="uint8")
    jobs = sweep._jobs(options, "train", beton=beton, seed=1)
    assert len({job["learning_rate"] for job in jobs}) == 2
    measured = sweep.turn("service", jobs, memory="200MB")
    assert measured["images"] == 70 + 7 * 8  # all of it, and ⌊0.8·9⌋ batches
    assert measured["decoded"] == 70  # the full schedule's; the other's are among them
    assert measured["images_per_second"] > 0
