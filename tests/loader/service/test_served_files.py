"""Several files over one service, in proportions of a trainer's own, and images of 1, 3 and 4 channels."""

import json
import signal

import numpy as np
import pytest

pytest.importorskip("ray")

from PIL import Image
from service_trainer import private
from services import Services

from budgetloader import ArgumentError, Mixture
from budgetloader.convert.converting import Settings, convert
from budgetloader.convert.sources import Filled, Source
from budgetloader.fields import Field
from budgetloader.service.client import status

SIZES = {"a": 500, "b": 300}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of images with alpha, and a number for each sample."""
    folder, made = tmp_path_factory.mktemp("files"), []
    for number, (name, samples) in enumerate(SIZES.items()):

        def load(i, number=number):
            pixels = np.random.default_rng((number, i)).integers(0, 256, (5, 6, 4), np.uint8)
            return Image.fromarray(pixels).resize((36, 30))

        weights = Filled(Field("weight", "float", "<f8"), np.arange(samples) + number / 2)
        names, labels = [f"{name}{i}" for i in range(samples)], [i % 3 for i in range(samples)]
        source = Source(names, labels, ("x", "y", "z"), load, columns=(weights,))
        convert(source, folder / f"{name}.beton", settings=Settings(alpha="keep"))
        made.append(folder / f"{name}.beton")
    return made


@pytest.fixture(scope="module")
def pair(files, environment):
    found = Services(files[0], environment)
    found.serve("pair", "--workers", "2", data=files)
    yield found
    found.end()


def mixture(files, **shares):
    return Mixture({str(file): shares[file.stem] for file in files})


def test_several_files_are_one_set(pair, files):
    assert pair.hashes("pair", "of:1,0.5", seed=3) == private(files, "of:1,0.5", seed=3)
    assert status("pair").path == " + ".join(map(str, files)) and status("pair").samples == 800


def test_a_mixtures_stream_is_the_private_loaders_on_any_number_of_ranks(pair, files):
    options = {"seed": 5, "batch_size": 40}
    asked, mixed = Mixture({"a.beton": 0.3, str(files[1]): 0.7}), mixture(files, a=0.3, b=0.7)
    expected = private(mixed, "of:0.5,1", **options)
    before = status("pair")
    assert pair.hashes("pair", "of:0.5,1", mixture=asked, **options) == expected
    middle = status("pair")
    assert middle.decoded > before.decoded
    halves = [pair.hashes("pair", "of:0.5,1", mixture=asked, rank=r, world_size=2, **options) for r in range(2)]
    assert halves == [private(mixed, "of:0.5,1", rank=r, world_size=2, **options) for r in range(2)]
    assert status("pair").decoded == middle.decoded  # trainers of one mixture share


def test_a_mixture_goes_on_from_a_state_after_sigkill_and_on_either_side(pair, files, tmp_path):
    options = {"seed": 6, "batch_size": 40, "mixture": {"a.beton": 0.3, "b.beton": 0.7}}
    expected = private(mixture(files, a=0.3, b=0.7), "full@2", seed=6, batch_size=40)
    killed = pair.trainer("pair", "full@2", **options, save=str(tmp_path / "state"), step_seconds=0.05)
    killed.wait_for("[1, 4,")
    killed.send_signal(signal.SIGKILL)
    state = json.loads((tmp_path / "state").read_text())
    assert 20 < state["step"] + 20 * state["epoch"] < 40
    rest = pair.trainer("pair", "full@2", **options, state=state).hashes()[0]
    assert rest == expected[-len(rest) :] and len(rest) < 20
    assert private(mixture(files, a=0.3, b=0.7), "full@2", seed=6, batch_size=40, state=state) == rest


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("more", [{}, {"dtype": "float32", "layout": "contiguous"}], ids=["lent", "copied"])
def test_grey_and_alpha_are_the_private_loaders(pair, files, channels, more):
    options = {"seed": 7, "channels": channels, **more}
    assert pair.hashes("pair", "0.5@2", **options) == private(files, "0.5@2", **options)


def test_fields_of_several_files_are_targets(pair, files):
    with pair.connect("pair", "full@1", targets="weight") as batches:
        found = {int(i): float(weight) for _, weights, ids in batches for i, weight in zip(ids, weights, strict=True)}
    assert found == {i: i if i < 500 else i - 500 + 0.5 for i in range(800)}


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (Mixture({"a.beton": 1}), "a share for each of the service's files: .*a.beton, .*b.beton"),
        (Mixture({"a.beton": 1, "c.beton": 1}), "Mixture.*c.beton.*a share for each"),
        ("a.beton", "mixture='a.beton' is a str; give a budgetloader.Mixture"),
    ],
)
def test_a_mixture_of_other_files_is_refused(pair, asked, why):
    with pytest.raises(ArgumentError, match=why):
        pair.connect("pair", "full@1", mixture=asked)


def test_alpha_that_a_file_does_not_have_is_named(served):
    with pytest.raises(Exception, match="no image field 'alpha'"), served.connect("shared", "full@1", channels=4) as b:
        next(iter(b))
