import json

from budgetloader.bench import converting


def test_rates_and_sizes_of_each_writer_are_recorded(tmp_path):
    ours = ["convert", "convert --standard-tables"]
    arguments = ["--images", "40", "--count", "50", "--turns", "1", "--ways", *ours, "--out", str(tmp_path)]
    assert converting.main(arguments) == 0
    exact, fast = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert exact["images_per_second"] > 0 and fast["per_last"] == 1
    assert 1 < fast["kilobytes"] / exact["kilobytes"] < 1.2
    assert not list((tmp_path / "data").glob("[0-9]*.beton*"))


def test_ffcvs_writer_is_given_the_same_images(folder):
    listed = converting.Listed(str(folder), 150)
    image, label = listed[140]
    assert len(listed) == 150 and image.mode == "RGB" and label == 0 and image.size == listed[0][0].size
