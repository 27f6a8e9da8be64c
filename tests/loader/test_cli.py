import os
import subprocess
import sys
from collections import Counter

import pytest
from PIL import Image

from budgetloader import Dataset
from budgetloader.cli import main
from budgetloader.commands.convert import classes_of


def fails(capsys, *arguments) -> str:
    """Run a command that must fail with one clear line and status 1; the line."""
    assert main(list(map(str, arguments))) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_from_nothing_to_a_verified_file(tmp_path, capsys):
    assert main(["generate", str(tmp_path / "g"), "--images", "15"]) == 0
    assert main(["convert", str(tmp_path / "g"), str(tmp_path / "x.beton"), "--quality", "80"]) == 0
    assert main(["inspect", str(tmp_path / "x.beton")]) == 0
    assert main(["verify", str(tmp_path / "x.beton")]) == 0
    out = capsys.readouterr().out
    assert "15 images" in out and "cropped on compressed bytes" in out and "quality 80" in out
    assert "all 15 images decode" in out


def test_convert_says_what_it_did(folder, tmp_path, capsys):
    root = tmp_path / "i"
    (root / "a").mkdir(parents=True)
    Image.new("L", (50, 40), 99).save(root / "a" / "grey.png")
    (root / "a" / "z.jpg").write_bytes(b"no")
    assert main(["convert", str(root), str(tmp_path / "x.beton"), "--on-bad", "skip", "--max-side", "20"]) == 0
    printed = capsys.readouterr()
    assert "1 brought to RGB from L" in printed.out and "made smaller to 20" in printed.out
    assert "skipped a/z.jpg" in printed.err


def test_convert_names_the_classes_with_their_images_and_counts_transparent_ones(tmp_path, capsys):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGBA", (8, 8), (0, 0, 0, 255 if "cat" in name else 0)).save(tmp_path / name)
    (tmp_path / "ant").mkdir()
    assert main(["convert", str(tmp_path), str(tmp_path / "x.beton"), "--background", "silver"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "  3 brought to RGB from RGBA",
        "  1 transparent, put on silver",
        "3 classes:",
        "  ant: 0",
        "  cat: 2",
        "  dog: 1",
    ]


@pytest.mark.parametrize(
    ("counts", "names", "lines"),
    [
        ({0: 3, 4: 1}, (), ["2 classes:", "  label 0: 3", "  label 4: 1"]),
        ({0: 1}, ("a\x1b[2J",), ["1 class:", "  a\N{REPLACEMENT CHARACTER}[2J: 1"]),
        (
            {i: 1300 - i for i in range(999)},
            [f"n{i}" for i in range(1000)],
            ["1,000 classes of 0 (n999) to 1,300 (n0) images", "  without an image: n999"],
        ),
    ],
)
def test_classes_are_listed_or_summed_up(counts, names, lines):
    assert classes_of(Counter(counts), names) == lines


def test_convert_warns_of_train_and_val_and_goes_on(tmp_path, capsys):
    for name in ("train/cat/1.png", "val/cat/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert main(["convert", str(tmp_path), str(tmp_path / "x.beton")]) == 0
    said = capsys.readouterr()
    assert f"warning: {tmp_path} is converted with the classes train and val" in said.err
    assert "  train: 1\n  val: 1\n" in said.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "FILE"),
        ("verify", "FILE"),
        ("plan", "R3", "--epochs", "120", "--samples", "50000"),
        ("--help",),
        ("train", "--help"),
    ],
)
def test_a_reader_that_has_gone_is_no_traceback(beton, command):
    reader, writer = os.pipe()
    os.close(reader)
    command = [str(beton) if part == "FILE" else part for part in command]
    done = subprocess.run(
        [sys.executable, "-m", "budgetloader", *command], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writer)
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr
    assert done.returncode in ((0, 141) if "--help" in command else (1, 141))  # 1, 0: rich or argparse noticed first


def test_bad_input_is_one_clear_line_and_loses_nothing(folder, tmp_path, capsys):
    kept = tmp_path / "kept.beton"
    kept.write_bytes(b"mine")
    assert "exists" in fails(capsys, "convert", folder, kept)
    assert kept.read_bytes() == b"mine"
    assert "no images" in fails(capsys, "convert", tmp_path, tmp_path / "x.beton")
    assert "does not exist" in fails(capsys, "convert", tmp_path / "none", tmp_path / "x.beton")
    assert "give an address that begins with s3://" in fails(capsys, "convert", folder, "ftp://b/x.beton")
    assert "give an address that begins with s3://" in fails(capsys, "inspect", "ftp://b/x.beton")
    assert "is no .beton file" in fails(capsys, "convert", kept, tmp_path / "x.beton")
    assert "'mauve-ish' is no colour" in fails(
        capsys, "convert", folder, tmp_path / "x.beton", "--background", "mauve-ish"
    )
    assert "version 2" in fails(capsys, "inspect", __file__)
    assert "does not exist" in fails(capsys, "verify", tmp_path / "none.beton")
    assert "not empty" in fails(capsys, "generate", folder)
    assert "quality 0" in fails(capsys, "convert", folder, tmp_path / "x.beton", "--quality", 0)
    plan = ("plan", "--samples", 100, "--batch-size", 10, "--epochs", 6)
    assert "outside (0, 1]" in fails(capsys, *plan, "1.5")
    assert "zero batches" in fails(capsys, *plan, "0.01")
    assert "do not fit" in fails(capsys, "plan", "R3", "--samples", 100, "--epochs", 1)
    assert "one of --samples and --data" in fails(capsys, "plan", "R3", "--epochs", 6)


def test_verify_names_what_does_not_decode(beton, tmp_path, capsys):
    dataset, path = Dataset(beton), tmp_path / "x.beton"
    data = bytearray(beton.read_bytes())
    for sample in (4, 60):
        data[dataset.starts[sample] : dataset.starts[sample] + 4] = b"nope"
    path.write_bytes(data)
    assert main(["verify", str(path)]) == 1
    printed = capsys.readouterr().err
    assert "sample 4:" in printed and "sample 60:" in printed and "2 of 70" in printed


def test_plan_shows_budget_prediction_and_miss_probability(tmp_path, capsys):
    picture = tmp_path / "p.png"
    arguments = [
        "plan",
        "R3",
        "--epochs",
        "120",
        "--samples",
        "50000",
        "--batch-size",
        "128",
        "--picture",
        str(picture),
    ]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "M = 391" in out and "0.644333" in out and "30,164" in out
    assert "Theorems 1 and 3: 10^-60.14" in out and "really drawn, ⌊αM⌋·B of D samples: 10^-59.98" in out
    assert Image.open(picture).size[0] > 400


@pytest.mark.slow
def test_throughput_measures_engines_in_processes_of_their_own(beton, capfd):
    arguments = ["throughput", str(beton), "--image-size", "32", "--batch-size", "16", "--epochs", "2"]
    assert main([*arguments, "--engines", "native", "synthetic"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["native", "synthetic"]
    assert all("images/s" in line for line in lines)
    assert main([*arguments, "--engines", "warp"]) == 1
    assert main([*arguments[:2], "--epochs", "0"]) == 1
    assert main(["doctor", str(beton), "--trainer-rate", "0"]) == 1


def test_plan_says_which_share_of_the_set_an_epoch_sees(beton, capsys):
    assert main(["plan", "0.5@2", "--data", str(beton), "--batch-size", "10"]) == 0
    assert "42.9%" in capsys.readouterr().out  # 30 of 70 samples
    assert main(["plan", "1@2", "--data", str(beton), "--batch-size", "10", "--only", "sample < 20"]) == 0
    assert "28.6%" in capsys.readouterr().out
    assert main(["plan", "1@2", "--data", str(beton), "--batch-size", "10", "--weights", "balanced"]) == 0
    assert "63.5%" in capsys.readouterr().out  # 1 − (1 − 1/70)^70: the classes are equally large
    assert main(["plan", "1@2", "--samples", "9", "--batch-size", "3", "--weights", "balanced"]) == 1


def test_plan_says_how_well_blocks_mix(beton, capsys):
    size = ["--samples", "1281167", "--batch-size", "256"]
    assert main(["plan", "0.5@2", *size, "--sampling", "blocks"]) == 0
    out = capsys.readouterr().out
    assert "blocks:32/8192: blocks of 32 neighbours, shuffled in 157 pools of about 8,160 samples" in out
    assert "163.5 blocks" in out and "15,981 positions apart in the mean; uniform draws: 427,056" in out
    assert main(["plan", "0.5@2", *size]) == 0
    assert "blocks" not in capsys.readouterr().out
    assert main(["plan", "0.5@2", "--data", str(beton), "--batch-size", "10", "--sampling", "blocks:5/10"]) == 0
    assert "classes in the mean; uniform draws: " in capsys.readouterr().out
    for wrong in ("blocks:10/5", "blocky", "random"):
        for command in (["plan", "0.5@2", *size], ["train", "--data", "digits"]):
            with pytest.raises(SystemExit):
                main([*command, "--sampling", wrong])
            assert wrong in capsys.readouterr().err
    assert main(["plan", "1@2", "--data", str(beton), "--sampling", "blocks", "--weights", "balanced"]) == 1


def test_plan_takes_the_samples_of_a_file(beton, capsys):
    assert main(["plan", "0.5@2", "--data", str(beton), "--batch-size", "10"]) == 0
    assert "M = 7" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["warp"], ["convert"], ["plan", "R3", "--epochs", "x"]])
def test_a_wrong_call_is_status_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_the_module_runs():
    result = subprocess.run(
        [sys.executable, "-m", "budgetloader", "--help"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0 and "convert" in result.stdout


@pytest.mark.parametrize("threads", ["0", "-1"])
def test_too_few_threads_are_refused(beton, capsys, threads):
    assert main(["verify", str(beton), "--threads", threads]) == 1
    assert f"threads {threads} is too few" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["infGB", "1e400", "nan", "4 apples"])
def test_a_memory_that_is_no_size_is_refused(capsys, size):
    with pytest.raises(SystemExit):
        main(["serve", "x.beton", "--name", "x", "--memory", size])
    assert f"{size!r} is no size" in capsys.readouterr().err
