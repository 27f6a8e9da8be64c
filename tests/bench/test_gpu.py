import json
import subprocess
import time

import pytest
import torch

from budgetloader.bench import gpu, gpu_parts, gpu_report
from budgetloader.bench.fake_cuda import FakeCUDA

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
BUDGETS = 70 + 32 + 16 + 70


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=(pytest.mark.gpu, NO_GPU))])
def test_every_batch_of_an_engine_is_checked_against_native(beton, device):
    row = gpu_parts.contract("native", beton=str(beton), device=device)
    assert row["decoded"] == row["emitted"] == 2 * BUDGETS
    assert row["pixel_difference"] <= gpu_parts.TOLERANCE["native"]


def test_the_check_drops_batches_under_queued_kernels_of_a_gpu(beton):
    with FakeCUDA() as fake:
        row = gpu_parts.contract("native", beton=str(beton), device="cuda:0", load=(16, 2))
    assert row["pixel_difference"] == 0 and not fake.order.faults


def test_an_engine_with_other_pixels_is_refused(beton):
    with pytest.raises(RuntimeError, match="pixels differ by"):
        gpu_parts.contract("synthetic", beton=str(beton), device="cpu")


@pytest.fixture
def own_engines(tmp_path, monkeypatch):
    """Engines of somebody's own, for processes that this one starts."""
    (tmp_path / "own.py").write_text(
        "import ctypes, time\n"
        "def crashes(job): ctypes.string_at(0)\n"
        "def hangs(job): time.sleep(1000)\n"
        "def fails(job): raise ValueError('no such thing')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.long
def test_an_engine_that_crashes_or_fails_is_a_row_and_the_others_go_on(own_engines, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(gpu, "OTHERS", ("cropped decoding alone",))
    engines = ["native", "own:crashes", "own:fails"]
    small = ["--images", "32", "--device", "cpu", "--turns", "1", "--out", str(tmp_path / "out")]
    assert gpu.main(["--parts", "contract", "loader", "--engines", *engines, *small]) == 1
    shown = " ".join(capfd.readouterr().out.split())
    assert "contract own:crashes: own:crashes crashed: SIGSEGV" in shown
    assert "loader own:fails: ValueError: no such thing" in shown
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["contract"][0]["pixel_difference"] == 0
    rates = {row["contender"]: row.get("images_per_second") for row in results["loader"]["rates"]}
    assert rates["native"] > 0 and rates["cropped decoding alone"] > 0 and rates["own:crashes"] is None


def test_a_measurement_that_hangs_is_ended(own_engines, beton, tmp_path):
    options = gpu.argparse.Namespace(out=str(tmp_path), minutes=5)
    bench = gpu.Bench(options, print)
    with bench.start("contract", "own:hangs", engine="own:hangs", beton=str(beton), device="cpu") as child:
        assert bench.ask(child, most_seconds=2) == {"error": "own:hangs took too long, and was ended"}


def test_what_there_is_no_time_for_is_left_out(tmp_path):
    bench = gpu.Bench(gpu.argparse.Namespace(out=str(tmp_path), minutes=0.1), print)
    assert (
        "left out" in bench.ask(None)["error"]
        and "left out" in bench.bench("budgetloader.bench.no_such_module")[0]["error"]
    )
    assert gpu_report.errors({"cifar": bench.bench("x")}) == ["cifar: left out: the 0.1 minutes are over"]


LATE = """
import json, pathlib, sys, time
epochs = [[{"full_batch_seconds": 1.0, "full_batches": 2}] * count for count in json.loads(sys.argv[1])]
try:
    pathlib.Path(sys.argv[3], "ready").touch()
    time.sleep(100)
except KeyboardInterrupt:
    rows = [{"setting": str(n), "seeds": [{"epoch_records": those}]} for n, those in enumerate(epochs)]
    pathlib.Path(sys.argv[3], "results.json").write_text(json.dumps({"settings": rows}))
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("epochs, kept", [([3, 2, 1], ["0", "1"]), ([1], []), ([], [])])
def test_what_a_bench_had_measured_when_the_time_was_over_is_kept(tmp_path, monkeypatch, epochs, kept):
    class Late(subprocess.Popen):
        """Is over its time as soon as it is ready for that."""

        late = False

        def wait(self, timeout=None):
            if self.late:
                return super().wait(timeout)
            while not (tmp_path / "ready").exists() and self.poll() is None:
                time.sleep(0.01)
            self.late = True
            raise subprocess.TimeoutExpired(self.args, timeout)

    (tmp_path / "late.py").write_text(LATE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gpu.subprocess, "Popen", Late)
    bench = gpu.Bench(gpu.argparse.Namespace(out=str(tmp_path), minutes=5), print)
    *rows, over = bench.bench("late", json.dumps(epochs), "--out", tmp_path)
    assert [row["setting"] for row in rows] == kept and "took longer than" in over["error"]


def test_parts_of_earlier_commands_are_kept_if_they_are_of_the_same_code_and_machine(tmp_path):
    earlier = {"environment": {"date": "yesterday", "gpu": "T4"}, "command": "gpu --parts contract", "contract": [1]}
    (tmp_path / "r.json").write_text(json.dumps(earlier | {"options": {"parts": ["contract"]}}))
    kept = gpu._earlier(tmp_path / "r.json", {"date": "today", "gpu": "T4"})
    assert kept == {"contract": [1], "commands": {"contract": "gpu --parts contract"}}
    assert gpu._earlier(tmp_path / "r.json", {"date": "today", "gpu": "H200"}) == {}
    assert gpu._earlier(tmp_path / "none.json", {}) == {}


@pytest.mark.parametrize("kind", gpu_parts.JPEGS)
def test_the_probe_decodes_each_kind_of_jpeg(beton, kind):
    pytest.importorskip("nvidia.nvimgcodec")
    row = gpu_parts.hardware(kind, beton=str(beton), device="cpu")
    assert row["decodes"] and row["pixel_difference"] < 0.5 and row["images_per_second"] > 0


def test_the_probes_jpegs_are_what_they_are_called(beton):
    from budgetloader.jpeg import read_frame

    frames = {kind: read_frame(gpu_parts.jpeg_of(kind, beton=str(beton))) for kind in gpu_parts.JPEGS}
    assert all(frame.baseline for frame in frames.values())
    assert frames["as stored"].interval and frames["cropped"].interval and frames["optimised tables"].interval
    assert not frames["without restart markers"].interval
    assert frames["cropped"].width < frames["as stored"].width


def test_cropped_bytes_are_fewer(beton):
    sizes = gpu_parts.bytes_per_image(str(beton), image_size=32)
    assert 0.2 < sizes["cropped"] / sizes["whole"] < 0.8 and sizes["pixels"] == 3072


def test_hours_on_imagenet_are_the_budgets_batches():
    row = {"schedule": "R1_0.618@6", "batch_seconds": 0.1}
    assert gpu.hours(row, batch_size=256) == pytest.approx(150 * 3093 * 0.1 / 3600)  # ⌊0.618·5,005⌋


@pytest.mark.parametrize(
    ("more", "why"), [([], "torch sees no GPU here"), (["--engines", "warp"], "--engines warp: give")]
)
def test_what_cannot_be_is_said(capsys, tmp_path, more, why):
    if torch.cuda.is_available() and not more:
        pytest.skip("there is one")
    assert gpu.main(["--out", str(tmp_path), *more]) == 1
    assert why in capsys.readouterr().err


def test_errors_are_exceptions_in_words_and_no_alarm_is_left():
    def work():
        raise KeyError("x")

    assert gpu_parts.answering(work)(limit_seconds=1) == {"error": "KeyError: 'x'"}
    time.sleep(0.01)
    assert gpu_parts.signal.alarm(0) == 0
