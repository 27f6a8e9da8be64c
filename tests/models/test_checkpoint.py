import random

import pytest
import torch

from budgetloader.models import CheckpointError
from budgetloader.models.checkpoint import load, random_state, save, set_random_state


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "new" / "c.pt"
    state = {"a": torch.arange(3), "b": [1, 2.5, "x", None], "c": {"d": True}}
    save(path, state)
    loaded = load(path)
    assert torch.equal(loaded.pop("a"), state["a"]) and loaded == {"b": [1, 2.5, "x", None], "c": {"d": True}}
    assert [p.name for p in path.parent.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_full_disk_leaves_the_checkpoint_before_whole(tmp_path, monkeypatch, error):
    path = tmp_path / "c.pt"
    save(path, {"step": 1})

    def full(state, file):
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="cannot be written.*still holds the one before"):
        save(path, {"step": 2})
    assert load(path) == {"step": 1} and [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_a_truly_full_disk_is_one_error(tmp_path):
    """/dev/full in place of the partial file."""
    (tmp_path / "c.pt.partial").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match="No space left"):
        save(tmp_path / "c.pt", {"weights": torch.rand(1 << 16)})


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_one_error(tmp_path, damage):
    path = tmp_path / "c.pt"
    save(path, {"weights": torch.rand(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(path)


def test_a_missing_checkpoint_is_one_error(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "c.pt")


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    (tmp_path / "c.pt").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path / "c.pt")


def test_random_states_come_back_through_a_file(tmp_path):
    save(tmp_path / "c.pt", random_state())
    drawn = torch.rand(3), random.random()
    set_random_state(load(tmp_path / "c.pt"))
    assert torch.equal(torch.rand(3), drawn[0]) and random.random() == drawn[1]


def test_the_random_state_is_that_of_the_devices_generator(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or torch.zeros(3))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: asked.append(device))
    assert "cuda" not in random_state() and not asked
    state = random_state(torch.device("cuda:1"))
    set_random_state(state, "cuda:2")
    set_random_state(state, "cpu")
    assert asked == [torch.device("cuda:1"), "cuda:2"]
