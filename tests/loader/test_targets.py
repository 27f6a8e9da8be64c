"""What a batch gives beside images, through the whole loader: on every engine, any number of ranks, after a resume."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import damage
from test_engines import ENGINES

from budgetloader import (
    ArgumentError,
    ArgumentTypeError,
    BudgetLoader,
    Dataset,
    EngineError,
    Mixture,
    Schedule,
    beton,
)
from budgetloader.fields import Field
from budgetloader.service.connection import Index
from budgetloader.targets import on_device

SCHEDULE = Schedule.of(["0.5", 1, "0.25"])
FIELDS = (
    Field("score", "float"),
    Field("count", "int"),
    Field("vector", "array", "<f4", (3,)),
    Field("caption", "text"),
    Field("tags", "list", "<i8"),
)
ARRAY = np.arange(140, dtype=np.float32).reshape(70, 2)
NAMES = {
    "one": "score",
    "tuple": ("label", "vector"),
    "dict": {"y": "count", "others": ("caption", "tags"), "mine": ARRAY},
    "function": lambda ids: {"double": 2 * ids, "tensor": torch.from_numpy(ids)},
}


def values(i):
    return {"score": i / 4, "count": -i, "vector": [i, 1, 2], "caption": f"no. {i}", "tags": list(range(i % 4))}


def expected(asked, i, label):
    """What a sample's targets are, by what its values are."""
    if asked is ARRAY:
        return ARRAY[i].tolist()
    if callable(asked):
        return {"double": 2 * i, "tensor": i}
    if isinstance(asked, tuple):
        return tuple(expected(part, i, label) for part in asked)
    if isinstance(asked, dict):
        return {name: expected(part, i, label) for name, part in asked.items()}
    return label if asked == "label" else values(i)[asked]


def row_of(targets, row):
    """One row of a batch's targets, as plain values."""
    if isinstance(targets, dict):
        return {name: row_of(part, row) for name, part in targets.items()}
    if isinstance(targets, tuple):
        return tuple(row_of(part, row) for part in targets)
    found = targets[row]
    return found.tolist() if isinstance(found, torch.Tensor) else found


def with_fields(source, path, *, first=0):
    """A copy of a file whose samples have fields besides."""
    dataset = Dataset(source)
    notes = {"classes": list(dataset.classes)}
    with beton.Writer(path, capacity=len(dataset), notes=notes, fields=FIELDS) as writer:
        for i in range(len(dataset)):
            size = {"width": int(dataset.widths[i]), "height": int(dataset.heights[i])}
            label = int(dataset.labels[i])
            writer.add(dataset.jpeg(i).tobytes(), **size, label=label, values=values(first + i))
    return path


@pytest.fixture(scope="module")
def path(beton, tmp_path_factory):
    return with_fields(beton, tmp_path_factory.mktemp("targets") / "x.beton")


@pytest.fixture(scope="module")
def small(small_beton, tmp_path_factory):
    return with_fields(small_beton, tmp_path_factory.mktemp("targets") / "small.beton")


def drawn(path, targets, *, start=None, stop=None, **options):
    """(targets, ids) of every batch, and the state after `stop` of them."""
    options = {"schedule": SCHEDULE, "batch_size": 4, "image_size": 16, "workers": 2, "engine": "synthetic", **options}
    found = []
    with BudgetLoader(path, with_ids=True, targets=targets, **options) as batches:
        if start is not None:
            batches.load_state_dict(start)
        for _ in batches.epochs() if options.get("train", True) else [0]:
            for _, given, ids in batches:
                found.append((given, ids.tolist()))
                if len(found) == stop:
                    return found, json.loads(json.dumps(batches.state_dict()))
        for stats in batches.stats:
            assert stats.samples_decoded == stats.samples_emitted or stats.samples_replaced
    return found, None


def check(found, asked, path):
    labels = Dataset(path).labels
    for given, ids in found:
        for row, i in enumerate(ids):
            assert row_of(given, row) == expected(asked, i, labels[i])
    return [ids for _, ids in found]


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_the_targets_of_the_samples_it_shows(path, small, engine):
    file, asked = small if engine == "resident" else path, tuple(NAMES.values())
    found, _ = drawn(file, asked, engine=engine)
    assert check(found, asked, file) == [ids for _, ids in drawn(path, None)[0]]


@pytest.mark.parametrize("asked", NAMES)
def test_targets_come_as_they_were_asked_for(path, asked):
    check(drawn(path, NAMES[asked])[0], NAMES[asked], path)


def test_ranks_share_them_and_a_state_resumes_them(path):
    asked = NAMES["dict"]
    whole = check(drawn(path, asked)[0], asked, path)
    for ranks in (2, 4):
        parts = [check(drawn(path, asked, rank=r, world_size=ranks)[0], asked, path) for r in range(ranks)]
        for place, ids in enumerate(whole):
            assert {i for part in parts for i in part[place]} == set(ids)
    taken, state = drawn(path, asked, stop=4)
    rest, _ = drawn(path, asked, start=state, workers=1)
    assert check(taken, asked, path) + check(rest, asked, path) == whole


_TRAINER = """
import json, os, signal, sys
from pathlib import Path
from budgetloader import BudgetLoader, Schedule
path, state, stop = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
options = {"schedule": Schedule.of(["0.5", 1]), "batch_size": 4, "image_size": 16, "engine": "native", "workers": 1}
with BudgetLoader(path, targets=("vector", "caption"), with_ids=True, **options) as batches:
    if state.exists():
        batches.load_state_dict(json.loads(state.read_text()))
    for _ in batches.epochs():
        for images, (vector, caption), ids in batches:
            print(float(images.sum()), vector.tolist(), caption, ids.tolist(), flush=True)
            stop -= 1
            if not stop:
                state.write_text(json.dumps(batches.state_dict()))
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_a_run_that_was_killed_goes_on_with_the_same_targets(path, tmp_path):
    def run(state, stop):
        command = [sys.executable, "-c", _TRAINER, str(path), str(state), str(stop)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, env={**os.environ})
        assert done.returncode == (-signal.SIGKILL if stop > 0 else 0), done.stderr[-2000:]
        return done.stdout.splitlines()

    whole = run(tmp_path / "none", 0)
    assert len(whole) == 9 + 18 and run(tmp_path / "state", 13) + run(tmp_path / "state", 0) == whole


@pytest.mark.parametrize("engine", ["native", "dali", "ffcv"])
def test_the_targets_of_a_replacement_are_its_own(path, tmp_path, engine):
    pytest.importorskip({"dali": "nvidia.dali", "ffcv": "ffcv"}.get(engine, "numpy"))
    broken = damage(path, tmp_path / "broken.beton", samples=tuple(range(0, 60, 2)))
    found, _ = drawn(broken, ("count", "label"), engine=engine, on_corrupt="replace")
    shown = check(found, ("count", "label"), broken)
    assert not {i for ids in shown for i in ids} & set(range(0, 60, 2))


def test_evaluation_has_targets_also_of_a_subset(path):
    found, _ = drawn(path, ("vector", "caption"), train=False, schedule=None, samples=[9, 4, 60], batch_size=2)
    assert check(found, ("vector", "caption"), path) == [[9, 4], [60]]


def test_several_files_and_mixtures_have_them_by_their_own_numbers(path, small):
    names = {"a": "count", "b": ("caption", "vector")}
    for files in ([path, small], Mixture({path: "0.3", small: "0.7"})):
        found, _ = drawn(files, {**names, "label": "label"}, schedule=Schedule.full(epochs=1))
        labels, seen = Dataset(path).labels, []
        for given, ids in found:
            for row, i in enumerate(ids):
                seen.append(i)
                assert row_of(given, row) == {**expected(names, i % 70, None), "label": labels[i % 70]}
        assert {i // 70 for i in seen} == {0, 1}


def test_dtypes_are_those_of_the_file_and_the_device_is_the_images(path):
    asked = {
        "f": "score",
        "i": "count",
        "v": "vector",
        "t": torch.arange(70),
        "b": ARRAY > 3,
        "l": "tags",
        "s": "caption",
    }
    ((given, _),), _ = drawn(path, asked, stop=1)
    kinds = {"f": torch.float64, "i": torch.int64, "v": torch.float32, "t": torch.int64, "b": torch.bool}
    assert {name: given[name].dtype for name in kinds} == kinds
    assert given["v"].shape == (4, 3) and all(part.dtype == torch.int64 for part in given["l"])
    assert all(isinstance(part, str) for part in given["s"])
    moved = on_device({"a": (np.zeros(2), ["x", np.zeros(1)]), "n": None}, torch.device("meta"))
    assert moved["a"][0].device.type == moved["a"][1][1].device.type == "meta" and moved["n"] is None


def test_without_targets_a_batch_is_images_and_labels_as_before(path):
    options = {"schedule": SCHEDULE, "batch_size": 4, "image_size": 16, "engine": "synthetic"}
    with BudgetLoader(path, **options) as plain, BudgetLoader(path, targets="label", **options) as named:
        for (_, labels), (_, same) in zip(plain, named, strict=True):
            assert torch.equal(labels, same) and labels.dtype == same.dtype == torch.int64


@pytest.mark.parametrize(
    ("asked", "error", "why"),
    [
        ("scores", ArgumentError, "targets='scores': there is no such field; there are 'image', 'label', 'score'"),
        (("score", "nil"), ArgumentError, "targets='nil'"),
        ((), ArgumentError, "asks for nothing"),
        (np.zeros(69), ArgumentError, "69 entries does not go with the set's 70 samples"),
        (torch.zeros(71, 2), ArgumentError, "71 entries"),
        ([0.5] * 3, ArgumentError, "3 entries"),
        (3, ArgumentError, "0 entries"),
        (np.array(["a"] * 70), ArgumentTypeError, "an array of numbers by sample"),
        (object(), ArgumentTypeError, "cannot be looked up"),
        (True, ArgumentError, "0 entries"),
    ],
)
def test_what_cannot_be_looked_up_is_refused_before_anything_is_read(path, asked, error, why):
    with pytest.raises(error, match=why):
        drawn(path, asked)


def test_a_function_that_gives_too_few_targets_is_an_error(path):
    for function in (lambda ids: ids[1:], lambda ids: {"a": ids, "b": (ids, ids[:-1])}):
        with pytest.raises(EngineError, match="gave 3 targets for 4 ids"):
            drawn(path, function)


def test_a_function_may_change_the_ids_it_is_given(path):
    def function(ids):
        ids += 1
        return ids

    found, _ = drawn(path, function)
    assert all((given - 1).tolist() == ids for given, ids in found)


def test_a_file_without_labels_needs_targets(tmp_path):
    with beton.Writer(tmp_path / "x.beton", capacity=8, notes={}, fields=FIELDS[:1], labelled=False) as writer:
        for i in range(8):
            writer.add(b"x", width=8, height=8, values={"score": i / 4})
    full = {"schedule": Schedule.full(epochs=1)}
    for given in (tmp_path / "x.beton", served(Dataset(tmp_path / "x.beton"))):
        with pytest.raises(ArgumentError, match="no integers that could be labels.*targets=…"):
            drawn(given, None, **full)
    with pytest.raises(ArgumentError, match="there is no such field; there are 'image', 'score'"):
        drawn(tmp_path / "x.beton", "label", **full)
    found, _ = drawn(tmp_path / "x.beton", "score", **full)
    assert all((given * 4).tolist() == ids for given, ids in found)


# Over a service, whose dataset is its arrays and a path


def served(dataset, **other):
    known = {name: getattr(dataset, name) for name in ("fingerprint", "classes", "heights", "widths", "labels")}
    return Index(**{"path": str(dataset.path), **known, "capacity_bytes": 1, **other})


def test_over_a_service_fields_are_read_from_the_file_here(path, tmp_path):
    dataset = Dataset(path)
    check(drawn(served(dataset), NAMES["dict"])[0], NAMES["dict"], path)
    for names in ("label", ARRAY, NAMES["function"], dataset.column("score")):  # which need no file
        drawn(served(dataset, path=str(tmp_path / "none.beton")), names)
    with pytest.raises(ArgumentError, match=r"cannot be opened here \(.*none.beton does not exist.*a function of ids"):
        drawn(served(dataset, path=str(tmp_path / "none.beton")), "score")
    with pytest.raises(ArgumentError, match="is not the file here that the service serves"):
        drawn(served(dataset, fingerprint="0" * 16), "score")
