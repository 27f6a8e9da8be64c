import pytest

from budgetloader.bench import handover, planted
from budgetloader.bench import handover_parts as parts

RUNS = {
    "ffcv": 2
}  # whose loader takes a second to make; python -m budgetloader.bench.handover has 1,000 over all engines


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return parts.images(tmp_path_factory.mktemp("handover"))


@pytest.mark.parametrize("engine", handover.ENGINES)
def test_every_access_is_ordered_however_trainer_and_engine_run(engine, images, monkeypatch):
    if not parts.installed(engine):
        pytest.skip(f"{engine} is not installed")
    taken = []
    train = handover._Trainer.train
    monkeypatch.setattr(
        handover._Trainer, "train", lambda self, batches: (train(self, batches), taken.append(self.batches))
    )
    runs = RUNS.get(engine, 12)
    assert handover.faults([engine], range(100, 100 + runs), dataset=images, done=lambda: None) == []
    assert sum(taken) > 3 * runs  # it did hand over batches


@pytest.mark.parametrize("name", planted.PLANTED)
def test_a_planted_fault_is_found(name, images):
    engine = planted.PLANTED[name].engine
    if not parts.installed(engine):
        pytest.skip(f"{engine} is not installed")
    assert planted.seeds_until_found(name, dataset=images) is not None


def test_the_same_seed_is_the_same_run(images):
    with planted.PLANTED["no wait for the event"].put_back():
        first, second = (handover.check("native", 7, dataset=images) for _ in range(2))
    assert first == second != []
