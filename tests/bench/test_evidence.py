"""The evidence: runs that can be repeated, a record that survives, pages that say what it says."""

import dataclasses
import json
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from studies import FEW, TINY, made_up, pilot_rows

from budgetloader.bench import evidence
from budgetloader.bench.study import arms, page, pictures, recipes, record, run, sets, tables, tasks
from budgetloader.bench.study.recipes import FASHION, STUDIES, Arm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """IDX files of 140 training and 30 test images."""
    root, random = tmp_path_factory.mktemp("idx"), np.random.default_rng(0)
    for split, count in (("train", 140), ("t10k", 30)):
        labels = np.arange(count, dtype=np.uint8) % 3
        images = random.integers(0, 80, (count, 16, 16), dtype=np.uint8) + 60 * labels[:, None, None]
        for name, values in (("images-idx3", images.astype(np.uint8)), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
            (root / f"{split}-{name}-ubyte").write_bytes(head + values.tobytes())
    return root


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(monkeypatch, tmp_path, folder):
    """Runs the command on a tiny study in a folder of its own."""
    monkeypatch.setitem(STUDIES, "tiny", FEW)
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    for name in (*evidence._SOURCES, evidence._INFOBATCH):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs").mkdir()
    (tmp_path / "bench" / "results").mkdir(parents=True)
    return lambda *arguments: evidence.main(["--recipe", "tiny", "--data", str(folder), *arguments])


@pytest.fixture(scope="module")
def files(folder, tmp_path_factory):
    from rich.console import Console

    return sets.files("tiny", folder, folder=tmp_path_factory.mktemp("beton"), console=Console(quiet=True))


# Runs


def test_a_seed_splits_the_training_set_into_two_parts():
    kept, held_out = run.split(FASHION, size=60_000, seed=3)
    assert len(kept) == 55_000 and len(held_out) == 5_000
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), np.arange(60_000))
    assert not np.array_equal(held_out, run.split(FASHION, size=60_000, seed=4)[1])
    with pytest.raises(ValueError, match="cannot be held out"):
        run.split(FASHION, size=5_000, seed=0)


@pytest.mark.parametrize("name", ["flat@0.618", "cyclic@0.618", "progressive@0.618", "infobatch@0.618"])
def test_a_run_is_repeated_to_the_same_weights(files, name):
    arm = TINY.arm(name)
    first, again, other = (run.train(run.Run(TINY, arm, "main", 1.0, seed), files) for seed in (1, 1, 2))
    timed = ("train_seconds", "cpu_seconds", "load_seconds")
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in again.items() if k not in timed}
    assert first["weights"] != other["weights"] and len(first["weights"]) == 32
    assert first["steps"] == arms.steps(arm, TINY, samples=100) == 9 and first["tested"] == 30
    assert first["curve"][-1] == [first["samples"], first["correct"]] and len(first["curve"]) == 4
    assert 0 <= 9 * 20 - first["samples"] < 20 * first["epochs"]  # InfoBatch's epochs may end with a short batch


def test_a_pilots_run_is_measured_on_what_its_seed_holds_out(files):
    found = run.train(run.Run(TINY, TINY.arm("flat@0.618"), "pilot", 1.0, 9001), files)
    assert found["tested"] == 40 and len(found["curve"]) == 1


def test_infobatch_never_shows_what_is_held_out_and_ends_with_whole_epochs(files):
    from budgetloader.bench.study.infobatch import BudgetedInfoBatch

    spent, among = 0.0, np.arange(10) < 8
    chosen = BudgetedInfoBatch(among, lambda: spent, prune_ratio=0.9)
    scores = np.where(among, np.arange(10.0), np.nan).astype(np.float32)
    pruned = chosen.choose(3, scores, epochs=90, seed=0)
    assert not pruned.kept[8:].any() and pruned.kept[4:8].all() and pruned.kept.sum() < 8
    assert set(pruned.weights[:4]) == {np.float32(10)} and set(pruned.weights[4:]) == {np.float32(1)}
    spent = 0.875
    assert np.array_equal(chosen.choose(3, scores, epochs=90, seed=0).kept, among)


# The record


def test_a_study_is_trained_to_its_end_resumed_and_repeated(tiny, tmp_path, capsys):
    out = tmp_path / "runs" / "evidence" / "tiny"
    assert tiny("--runs", "3") == 0
    first = record.read(out / "record.jsonl")
    assert [name.split("/")[0] for name in first] == ["pilot"] * 3
    assert tiny() == 0
    rows = record.read(out / "record.jsonl")
    assert list(rows)[:3] == list(first) and rows | first == rows  # what was done is not done again
    assert len(rows) == tasks.total(FEW, rows) and tasks.complete(FEW, rows) and not tasks.ready(FEW, rows)
    assert page.faults(FEW, rows) == []
    name = "main/short@0.618/seed1"
    assert rows[name]["command"].endswith(f"--recipe tiny --repeat {name}")
    capsys.readouterr()
    assert tiny("--repeat", name) == 0 and "the same weights as in the record" in capsys.readouterr().out
    text = (out / "record.jsonl").read_text()
    (out / "record.jsonl").write_text(text.replace(rows[name]["weights"], "0" * 32))
    assert tiny("--repeat", name) == 1 and "other weights than in the record" in capsys.readouterr().out
    assert tiny("--status") == 0 and "flat@0.618 − short@0.618" in capsys.readouterr().out
    (out / "record.jsonl").write_text(text)
    published(tiny, tmp_path, capsys)


def published(tiny, root, capsys):
    """The page is written from the record, and a number that is changed by hand is found."""
    quoted = "".join(f"<!-- evidence:tiny:{part} -->\n<!-- /evidence -->\n" for part in page.PARTS)
    science = root / "docs" / "science.md"
    science.write_text(quoted)
    assert tiny("--check") == 1 and tiny("--publish") == 0 and tiny("--check") == 0
    text = science.read_text()
    assert "`flat@0.618` − `short@0.618`" in text and "| `infobatch@0.618` |" in text and "a fresh fraction was" in text
    science.write_text(text.replace("points", "points!", 1))
    assert tiny("--check") == 1
    science.write_text(text)
    picture = root / "docs" / "evidence_tiny_contrasts.png"
    shutil.copy(root / "docs" / "evidence_tiny_samples.png", picture)
    assert tiny("--check") == 1 and tiny("--publish") == 0 and tiny("--check") == 0
    committed = page.record_path(root, "tiny")
    row = json.loads(committed.read_text().splitlines()[0])
    committed.write_text(committed.read_text().replace(f'"correct": {row["correct"]}', '"correct": 1', 1))
    capsys.readouterr()
    assert tiny("--check") == 1 and "is not 1 of" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_process_loses_the_run_under_way_alone(tiny, tmp_path, folder):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import studies
from budgetloader.bench import evidence
evidence.STUDIES["tiny"] = studies.FEW
evidence.main(["--recipe", "tiny", "--data", {str(folder)!r}, "--out", {str(tmp_path / "out")!r}])
"""
    path = tmp_path / "out" / "record.jsonl"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while len(record.read(path)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = record.read(path)
    assert len(before) >= 2
    assert tiny("--out", str(tmp_path / "out"), "--runs", "1") == 0
    after = record.read(path)
    assert len(after) == len(before) + 1 and after | before == after
    assert list(after) == [one.name for one in tasks.ready(FEW, {})][: len(after)]


def test_a_run_that_another_process_has_is_left_to_it(tmp_path):
    with record.claimed(tmp_path, "pilot/a/x1/seed1") as mine:
        assert mine
        with (
            record.claimed(tmp_path, "pilot/a/x1/seed1") as twice,
            record.claimed(tmp_path, "pilot/b/x1/seed1") as other,
        ):
            assert not twice and other
    with record.claimed(tmp_path, "pilot/a/x1/seed1") as mine:
        assert mine


def test_a_line_that_a_killed_process_began_is_cut_off(tmp_path):
    path = tmp_path / "record.jsonl"
    record.append(path, {"name": "a", "value": 1})
    with open(path, "a") as file:
        file.write('{"name": "b", "val')
    assert list(record.read(path)) == ["a"]
    record.append(path, {"name": "c"})
    assert list(record.read(path)) == ["a", "c"] and path.read_text().count("\n") == 2


def test_a_line_that_is_no_row_is_an_error(tmp_path):
    (tmp_path / "r").write_text('{"name": "a"}\n[]\n')
    with pytest.raises(record.RecordError, match="line 2 is no row"):
        record.read(tmp_path / "r")


def test_records_of_several_machines_are_merged_unless_they_contradict(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    row = {"name": "x", "cpu": "one", "weights": "1", "correct": 5, "samples": 9}
    record.append(a, row)
    record.append(b, {**row, "cpu": "two", "weights": "2"})
    record.append(b, {**row, "name": "w"})
    assert record.merge(a, [b]) == 2 and list(record.read(a)) == ["w", "x"] and record.read(a)["x"]["cpu"] == "one"
    record.append(b, {**row, "name": "w2"})
    (tmp_path / "c").write_text(json.dumps({**row, "weights": "3"}) + "\n")
    with pytest.raises(record.RecordError, match="other results"):
        record.merge(a, [tmp_path / "c"])


def test_shards_are_a_partition(files, tmp_path):
    def worker(part):
        return evidence.Worker(TINY, files, out=tmp_path, committed=tmp_path / "no", shard=(part, 3), device="cpu")

    parts = [{one.name for one in tasks.pilot(TINY) if worker(part)._is_mine(one)} for part in (1, 2, 3)]
    assert set.union(*parts) == {one.name for one in tasks.pilot(TINY)} and sum(map(len, parts)) == len(
        set.union(*parts)
    )
    assert all(parts)


@pytest.mark.parametrize("bad", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_shard_that_cannot_be_is_refused(bad, capsys):
    with pytest.raises(SystemExit):
        evidence.main(["--shard", bad])
    assert f"{bad!r} is no part such as 1/2" in capsys.readouterr().err


# Pages


def test_the_pages_say_what_the_record_says():
    assert page.check(ROOT) == []


def test_an_unfinished_record_is_called_so_and_not_tested():
    rows = made_up(flat=[80.1, 80.3], short=[80.0, 80.1], short_linear=[81.0, 81.1])
    assert "are not finished, and so are not tested yet" in tables.answer(TINY, rows)
    assert tables.progress(TINY, rows).startswith("The record is not finished: 6 of ")
    assert "nothing to say" in tables.answer(TINY, {})
    assert "0.15 ± 0.64 points more accurate than fewer full epochs of the same cost, and" in tables.answer(TINY, rows)
    assert {row[-1] for row in tables.primary(TINY, rows).rows} == {"not finished"}
    rows |= pilot_rows(TINY, spread=0.1)  # which asks for these two seeds, and their spread for two more
    assert [row[2] for row in tables.primary(TINY, rows).rows] == ["2 of 4", "2 of 4"]
    rows |= made_up(flat=2 * [80.1, 80.3], short=2 * [80.0, 80.1], short_linear=2 * [81.0, 81.1])
    assert "within 0.5 points of fewer full epochs of the same cost (+0.15 ± 0.09, equivalent), and" in tables.answer(
        TINY, rows
    )
    assert [row[2] for row in tables.primary(TINY, rows).rows] == ["4 of 4", "4 of 4"]
    assert "not finished" not in {row[-1] for row in tables.primary(TINY, rows).rows}


def test_the_answer_says_what_a_contrast_shows_and_no_more():
    rows = pilot_rows(TINY, spread=0.1)
    rows |= made_up(flat=2 * [80.3, 80.5], short=2 * [80.0, 80.2], short_linear=2 * [81.0, 79.8])
    rows |= made_up(flat_linear=2 * [81.2, 80.0])
    answer = tables.answer(TINY, rows)
    assert "was within 0.5 points of fewer full epochs of the same cost (+0.30 ± 0.00, equivalent), and" in answer
    assert "0.00 ± 1.29 points from fewer full epochs with linear decay (undecided)" in answer
    assert "With linear decay in both, a fresh fraction minus fewer full epochs was, in points: +0.20 ± 0.00" in answer
    few = {name: row for name, row in rows.items() if "flat-linear" not in name or row["seed"] < 2}
    assert "epochs was so far, in points: +0.20" in tables.answer(TINY, few)


def test_a_picture_carries_the_numbers_that_it_shows(tmp_path):
    points = {"flat": [[0.1, 80.0], [0.3, 85.0]]}
    pictures.save(pictures.draw_points(points, title="x", x="y"), tmp_path / "a.png", points=points)
    assert pictures.digest_of(tmp_path / "a.png") == pictures.digest(points)
    assert pictures.digest({"flat": [[0.1, 80.1], [0.3, 85.0]]}) != pictures.digest(points)
    assert pictures.digest_of(tmp_path / "none.png") is None


# Sets and recipes


def test_rs2s_protocol_is_trained_on_the_set_that_is_given(tmp_path, monkeypatch, capsys):
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    random, data = np.random.default_rng(0), tmp_path / "cifar"
    data.mkdir()
    for name in names:
        content = {b"data": random.integers(0, 256, (2, 3072), dtype=np.uint8), b"labels": [3, 9]}
        (data / name).write_bytes(pickle.dumps(content))
    (data / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"c%d" % i for i in range(10)]}))
    assert (
        evidence._study(evidence._parser().parse_args(["--recipe", "rs2", "--data", str(data)])) is recipes.RS2_CIFAR10
    )
    short = dataclasses.replace(
        recipes.RS2_CIFAR10, epochs=1, batch_size=4, least_seeds=1, arms=(Arm("full", "1", "full"),)
    )
    monkeypatch.setitem(recipes.RS2, 10, short)
    command = ["--recipe", "rs2", "--data", str(data), "--out", str(tmp_path / "out")]
    assert evidence.main(command) == 0
    rows = record.read(tmp_path / "out" / "record.jsonl")
    assert list(rows) == ["main/full/seed0"] and rows["main/full/seed0"]["samples"] == 10
    assert tables.accuracies(short, rows).rows[0][-1] == "95.5"


def test_rs2s_protocol_is_that_of_its_paper():
    for study in recipes.RS2.values():
        assert (study.epochs, study.learning_rate, study.nesterov, study.weight_decay) == (200, 0.1, True, 5e-4)
        assert study.decay == "cosine" and study.factors == (1.0,) and not tasks.pilot(study)
        assert len(tasks.ready(study, {})) == 3 * len(study.arms) == tasks.total(study, {})
    assert [recipes.RS2[classes].batch_size for classes in (10, 100, 1000)] == [128, 128, 256]


@pytest.mark.parametrize("command", [["--recipe", "rs2"], ["--recipe", "rs2", "--data", "DATA"]])
def test_a_set_without_a_protocol_is_said(command, folder, capsys):
    assert evidence.main([str(folder) if part == "DATA" else part for part in command]) == 1
    said = capsys.readouterr().err
    assert "has 3 classes; RS2's protocol is for 10, 100, 1000" in said or "--recipe rs2 needs --data" in said


def test_a_set_may_be_a_folder_of_parts_or_of_finished_files(tmp_path, files, folder):
    from rich.console import Console

    (tmp_path / "train.beton").symlink_to(files.train.path)
    (tmp_path / "val.beton").symlink_to(files.test.path)
    found = sets.files("tiny", tmp_path, folder=tmp_path / "none", console=Console(quiet=True))
    assert (len(found.train), len(found.test)) == (140, 30) and not (tmp_path / "none").exists()
    assert sets.classes(tmp_path) == sets.classes(folder) == 3


def test_a_set_that_is_no_package_has_to_be_said(tmp_path):
    from rich.console import Console

    from budgetloader import DatasetError

    with pytest.raises(DatasetError, match="say where they are with --data"):
        sets.files("tiny", None, folder=tmp_path, console=Console(quiet=True))


def test_fashion_mnist_is_what_the_page_says():
    if not sets.FASHION.is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    from budgetloader.convert.sources import open_source

    source = open_source(sets.FASHION)
    assert len(source) == 60_000 and source.load(0).size == (28, 28) and set(source.labels) == set(range(10))
    assert len(open_source(sets.FASHION, split="test")) == 10_000
