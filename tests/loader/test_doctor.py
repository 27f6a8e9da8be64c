import pytest

from budgetloader import doctor, engines
from budgetloader.cli import main
from budgetloader.dataset import Dataset
from budgetloader.throughput import Work


@pytest.mark.slow
def test_the_report_names_what_works_and_what_limits_a_trainer(beton, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_ENGINES", ("native", "resident", "synthetic"))
    sizes = ["--image-size", "32", "--batch-size", "8", "--epochs", "1"]
    assert main(["doctor", str(beton), *sizes, "--trainer-rate", "1"]) == 0
    report = capsys.readouterr().out
    lines = {line.split(":")[0].strip(): line for line in report.splitlines() if ":" in line}
    assert "images/s" in lines["native"] and "images/s" in lines["storage"] and "70 JPEGs" in lines["measured on"]
    assert "works" in lines["resident"] and "works" in lines["synthetic"]
    assert "Python's lock" in lines["turbojpeg"]
    assert "a trainer of 1 images/s is trainer-bound" in report


@pytest.mark.parametrize(
    ("storage", "trainer", "says"),
    [(9e9, 1e6, "loader-bound: it runs at 0.00"), (10.0, 20.0, "at 0.50 of its speed; a faster disk")],
)
def test_a_trainer_that_is_too_fast_is_told_what_to_do(storage, trainer, says):
    text = "".join(doctor._verdict("native", decoding=1000.0, storage=storage, trainer_rate=trainer))
    assert says in text


@pytest.mark.slow
def test_what_is_not_installed_or_broken_is_said_and_does_not_end_the_report(beton, monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda name: name != "ffcv")
    work = Work(image_size=32, batch_size=8, epochs=1)
    assert doctor._try("ffcv", beton, work) == "not installed; pip install 'budgetloader[ffcv]'"
    assert "does not work: " in doctor._try("native", beton.with_name("none.beton"), work)


def test_the_file_that_is_made_is_like_photographs(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_IMAGES", 4)
    dataset = Dataset(doctor.make_file(tmp_path / "x.beton"))
    assert len(dataset) == 4 and set(dataset.widths) == {500}
    assert 20_000 < dataset.sizes.mean() < 120_000
    assert doctor.storage_rate(dataset) > 0
