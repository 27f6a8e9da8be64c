"""How the kill matrix and the soak judge what they saw."""

import pytest

from budgetloader.bench import kill_matrix, soak

EXPECTED = [[0, 0, "a"], [0, 1, "b"]]


@pytest.mark.parametrize(
    ("lines", "outcome", "kept"),
    [
        (["connected", *EXPECTED, "finished"], "same stream", True),
        (["connected", [0, 0, "a"], {"error": "gone", "at": 104.0}], "one error", True),
        (["connected", [0, 0, "a"], {"error": "gone", "at": 106.0}], "one error", False),
        (["connected", [0, 0, "x"], [0, 1, "b"], "finished"], "wrong", False),
        (["connected", [0, 0, "x"], {"error": "gone", "at": 101.0}], "wrong", False),
        (["connected", [0, 1, "b"], "finished"], "wrong", False),
        (["connected", [0, 0, "a"]], "hung or silent", False),
        (["connected", [0, 0, "a"], "finished"], "hung or silent", False),
        ([], "hung or silent", False),
    ],
)
def test_a_stream_is_kept_or_told_of_in_time(lines, outcome, kept):
    found = kill_matrix._judge(lines, EXPECTED, 100.0)
    assert (found["outcome"], found["kept"]) == (outcome, kept)


def test_the_table_has_a_row_for_each_victim():
    trials = [
        {"victim": "worker", "outcome": "same stream", "kept": True},
        {"victim": "worker", "outcome": "wrong", "kept": False, "left_behind": ["x"]},
        {"victim": "server", "outcome": "one error", "kept": True, "seconds": 1.26},
    ]
    found = kill_matrix.rows(trials)
    assert kill_matrix.table(found).splitlines()[2:] == [
        "| worker | 2 | 1 | 0 |  | 1 | 1 |",
        "| server | 1 | 0 | 1 | 1.3 s | 0 | 0 |",
    ]


def readings(service):
    flat = {"rss_bytes": 300e6, "descriptors": 40, "threads": 9}
    return [
        {
            "seconds": 10.0 * i,
            "private": flat,
            "service": {**flat, "rss_bytes": value},
            "shm_used_bytes": 1,
            "shm_files": 0,
        }
        for i, value in enumerate(service)
    ]


def test_what_grows_is_said_and_what_jumps_about_is_flat():
    jumping = soak.judge(readings([900e6, *(400e6 + 10e6 * (i % 3) for i in range(99))]))
    assert all(line["flat"] for line in jumping)
    growing = soak.judge(readings([400e6 + 1e6 * i for i in range(100)]))
    assert [line["series"] for line in growing if not line["flat"]] == ["service rss_bytes"]


def test_the_soak_is_drawn(tmp_path):
    record = {"readings": readings([400e6] * 9), "trainers": {"ended": 1, "killed": 2}}
    soak.draw(record, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 1000
