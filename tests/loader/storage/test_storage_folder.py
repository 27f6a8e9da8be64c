import os
import stat
import threading

import pytest

from budgetloader import StorageError
from budgetloader.storage.dataset import RemoteDataset
from budgetloader.storage.folder import Lock, open_private, private_folder, replace_private


def test_a_folder_is_made_for_this_user_alone(tmp_path):
    made = private_folder(tmp_path / "a" / "cache")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert private_folder(made) == made


def test_folders_that_others_can_write_to_are_refused(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(StorageError, match=r"can be written to by others \(mode 777\).*chmod go-w"):
        private_folder(shared)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="is a link"):
        private_folder(tmp_path / "link")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be made|no folder"):
        private_folder(tmp_path / "file")


def test_folders_of_another_user_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(StorageError, match="belongs to user"):
        private_folder(tmp_path)


def test_files_that_are_not_the_caches_own_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_private(tmp_path / "none")
    made = tmp_path / "own"
    os.close(open_private(made, create=True))
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(made)
    os.link(made, tmp_path / "hard")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "hard", "pipe"):
        with pytest.raises(StorageError, match="remove it"):
            open_private(tmp_path / name)


def test_a_file_is_replaced_at_once_and_leaves_nothing_behind(tmp_path):
    replace_private(tmp_path / "a", [b"one", b"two"])
    replace_private(tmp_path / "a", [b"three"])
    assert (tmp_path / "a").read_bytes() == b"three" and os.listdir(tmp_path) == ["a"]
    with pytest.raises(OSError):
        replace_private(tmp_path / "none" / "a", [b""])


def test_a_lock_lets_one_in_at_a_time_and_its_own_thread_again(tmp_path):
    locks = [Lock(tmp_path / "lock") for _ in range(2)]
    inside, most = [0], [0]

    def enter(lock):
        for _ in range(50):
            with lock.held(), lock.held():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=enter, args=(locks[i % 2],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    for lock in locks:
        lock.close()


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign", "other"])
def test_an_index_that_is_damaged_is_fetched_again(web, tmp_path, damage):
    url = f"{web.url}/train.beton"
    first = RemoteDataset(url, cache=tmp_path)
    (path,) = tmp_path.glob("*/index")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes({"cut": whole[:-5], "flipped": bytes(flipped), "foreign": b"x" * 100, "other": b""}[damage])
    again = RemoteDataset(url, cache=tmp_path)
    assert again.fingerprint == first.fingerprint and (again.starts == first.starts).all()
    assert path.read_bytes() == whole, "and kept anew"


def test_an_index_that_somebody_else_planted_is_not_read(web, tmp_path):
    url = f"{web.url}/train.beton"
    RemoteDataset(url, cache=tmp_path)
    (path,) = tmp_path.glob("*/index")
    planted = tmp_path / "planted"
    path.rename(planted)
    path.symlink_to(planted)
    with pytest.raises(StorageError, match="remove it"):
        RemoteDataset(url, cache=tmp_path)


def test_without_a_home_that_can_be_written_to_the_index_is_just_not_kept(web, tmp_path, monkeypatch, caplog):
    home = tmp_path / "home-of-all"
    home.mkdir()
    (home / "budgetloader").mkdir()
    (home / "budgetloader").chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    assert len(RemoteDataset(f"{web.url}/train.beton")) == 70
    assert "is not kept" in caplog.text and os.listdir(home / "budgetloader") == []
