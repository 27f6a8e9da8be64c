"""Conditions on columns: they choose what Python would, and can do nothing else."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engines import ENGINES

from budgetloader import ArgumentError, BudgetLoader, Dataset, Schedule, ScheduleError
from budgetloader.conditions import where


class Set:
    """A data set of 60 samples, with columns of its own."""

    labels = np.arange(60) % 5
    heights, widths = np.arange(60) * 7 % 50 + 10, np.arange(60) * 11 % 50 + 10
    classes = ("ant", "bee", "cat", "dog", "eel")
    fields = ("image", "label", "score", "text", "box")
    image_field = "image"

    def __len__(self):
        return 60

    def column(self, name):
        found = {"score": np.linspace(0, 1, 60), "text": [f"t{i % 3}" for i in range(60)], "box": np.zeros((60, 4))}
        return found.get(name, self.labels)


def meant(condition):
    """What Python says of each sample."""
    data = Set()
    rows = [
        {
            "label": int(data.labels[i]),
            "class_name": data.classes[data.labels[i]],
            "height": int(data.heights[i]),
            "width": int(data.widths[i]),
            "sample": i,
            "score": float(data.column("score")[i]),
            "text": data.column("text")[i],
        }
        for i in range(60)
    ]
    return [bool(eval(condition, {}, row)) for row in rows]


@pytest.mark.parametrize(
    "condition",
    [
        "label == 3",
        "height >= 30 and label in (1, 4)",
        "not (height > width) or width % 7 == 2",
        "20 < height <= 40 != width",
        "class_name == 'dog' or 'bee' == class_name",
        "class_name not in ['ant', 'eel'] and sample // 2 < 20",
        "height / width > 1.5 and -label < -1",
        "score >= 0.5 and text != 't1'",
        "(height * width + 3 - label) % 2 == 1",
        "text in {'t0', 't2'}",
        "label != label - 0 or sample < 5",
    ],
)
def test_a_condition_chooses_what_python_would(condition):
    assert where(Set(), condition).tolist() == meant(condition)


numbers = st.recursive(
    st.sampled_from(["label", "height", "width", "sample", "3", "12", "0.5"]),
    lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "*"]), inner),
    max_leaves=4,
)
comparisons = st.builds("{} {} {}".format, numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers)
conditions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner),
        st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
    ),
    max_leaves=5,
)


@settings(max_examples=50)
@given(conditions)
def test_any_condition_chooses_what_python_would(condition):
    expected = meant(condition)
    try:
        assert where(Set(), condition).tolist() == expected
    except ScheduleError:
        assert not any(expected)
    except ArgumentError as error:  # a comparison of two constants says nothing of samples
        assert "yes or no" in str(error)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("", "it is no condition"),
        ("label ==", "it is no condition"),
        ("import os", "it is no condition"),
        ("label\n== 3 = 4", "it is no condition"),
        ("\0", "it is no condition"),
        ("label", "does not say yes or no"),
        ("3 < 4", "does not say yes or no"),
        ("label and height > 3", "'label' is not yes or no of each sample"),
        ("lable == 3", r"no column 'lable' \(there are label, class_name"),
        ("image == 3", "no column 'image'"),
        ("box == 3", r"column 'box' is of float64 \[4\]"),
        ("class_name == 'bea'", "no class 'bea'; did you mean 'bee'"),
        ("class_name < 'b'", "class_name is compared by =="),
        ("class_name == 3", "class_name is compared by =="),
        ("label == 'a'", "compares a text with a number"),
        ("text in (1, 2)", "compares a text with a number"),
        ("label in 3", "behind 'in' there is a list"),
        ("label in ()", "a list has constants"),
        ("label in (height, 3)", "a list has constants"),
        ("(1, 2) == label", "cannot be compared"),
        ("label is 3", "cannot be compared"),
        ("text + 1 == 2", "no number to compute with"),
        ("label ** 99 > 3", "is not among what a condition may have"),
        ("label << 9 > 3", "is not among what a condition may have"),
        ("1 / 0 < label", "is no number"),
        ("label == 1" + "0" * 40, "is too large"),
        ("__import__('os').system('true') == 0", "is not among what a condition may have"),
        ("label.__class__ == 3", "is not among"),
        ("[x for x in (1,)] == label", "is not among"),
        ("(lambda: label)() == 3", "is not among"),
        ("f'{label}' == 3", "is not among"),
        ("label[0] == 3", "is not among"),
        ("(x := label) == 3", "is not among"),
        ("not " * 60 + "label == 3", "nested more than 50 deep"),
        ("(" * 4000 + "label == 3" + ")" * 4000, "it is no condition"),
        ("-" * 9000 + "label == 3", "it is no condition|nested"),
        ("label == 3 or " * 1000 + "label == 3", "letters; give 10,000"),
    ],
)
def test_what_is_no_condition_is_refused(condition, message):
    with pytest.raises(ArgumentError, match=message):
        where(Set(), condition)


def test_a_condition_that_nothing_meets_is_said():
    with pytest.raises(ScheduleError, match="samples='label > 9' is met by none of the 60 samples"):
        where(Set(), "label > 9")


# Through the whole loader


def ids_of(path, *, start=None, stop=None, **options):
    options = {"batch_size": 4, "image_size": 16, "engine": "synthetic", "with_ids": True, "workers": 2, **options}
    found = []
    with BudgetLoader(path, schedule=Schedule.of([1, "0.5"]), **options) as batches:
        if start is not None:
            batches.load_state_dict(start)
        for _ in batches.epochs():
            for _, _, ids in batches:
                found.append(ids.tolist())
                if len(found) == stop:
                    return found, json.loads(json.dumps(batches.state_dict()))
    return found, None


@pytest.mark.parametrize("engine", ENGINES)
def test_a_condition_is_the_subset_that_meets_it_on_every_engine(beton, small_beton, engine):
    path = small_beton if engine == "resident" else beton
    dataset = Dataset(path)
    mask = np.isin(dataset.labels, (1, 4, 7)) | (np.arange(70) >= 60)
    condition = "label in (1, 4, 7) or sample >= 60"
    assert ids_of(path, samples=condition, engine=engine) == ids_of(path, samples=mask)


def test_a_state_of_a_condition_resumes_and_selects(beton):
    condition = "height > 100 and label != 2"
    whole, _ = ids_of(beton, samples=condition)
    taken, state = ids_of(beton, samples=condition, stop=5)
    assert taken + ids_of(beton, samples=condition, start=state)[0] == whole
    with BudgetLoader(
        beton, train=False, samples="label == 3", batch_size=90, image_size=8, engine="synthetic"
    ) as rest:
        assert set(next(iter(rest))[1].tolist()) == {3}
    options = {"batch_size": 2, "image_size": 8, "engine": "synthetic", "schedule": Schedule.full(epochs=1)}
    with BudgetLoader(beton, **options) as batches:
        batches.select(0, "label == 3")
        assert {label for _, labels in batches for label in labels.tolist()} == {3}
