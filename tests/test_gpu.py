import pytest
import torch

from bench import gpu

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=(pytest.mark.gpu, NO_GPU)),
    ],
)
def test_an_engine_is_checked_against_native(beton, device):
    row = gpu.contract("native", beton=str(beton), device=device)
    assert row["decoded"] == row["emitted"] == 70 + 32 + 16 + 70
    assert row["pixel_difference"] <= gpu.TOLERANCE["native"]


def test_an_engine_with_other_pixels_is_refused(beton, monkeypatch):
    monkeypatch.setitem(gpu.TOLERANCE, "synthetic", 1.5)
    with pytest.raises(RuntimeError, match="pixels differ by"):
        gpu.contract("synthetic", beton=str(beton), device="cpu")


def test_cropped_bytes_are_fewer(beton):
    sizes = gpu.uploaded_bytes(str(beton))
    assert 0.2 < sizes["cropped"] / sizes["whole"] < 0.8


def test_hours_on_imagenet_are_the_budgets_batches():
    row = {"schedule": "R1_0.618@6", "batch_seconds": 0.1}
    assert gpu.hours(row, batch_size=256) == pytest.approx(150 * 3093 * 0.1 / 3600)  # ⌊0.618·5,005⌋


def test_without_a_gpu_it_says_so(capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main(["--out", str(tmp_path)]) == 1
    assert "torch sees no GPU here" in capsys.readouterr().err
