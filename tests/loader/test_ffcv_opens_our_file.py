"""Stock FFCV, in a process of its own (importing it changes torch's thread count), reads our file."""

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from budgetloader import Dataset
from budgetloader.convert.converting import convert
from budgetloader.convert.sources import Source, image_folder

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ffcv") is None, reason="FFCV is not installed")

_READ = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.decoders import SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
loader = Loader(
    sys.argv[1],
    batch_size=7,
    num_workers=1,
    order=OrderOption.SEQUENTIAL,
    os_cache=sys.argv[3] == "os_cache",
    pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
)
images, labels = zip(*((i.copy(), l.copy()) for i, l in loader))
np.savez(sys.argv[2], images=np.concatenate(images), labels=np.concatenate(labels).ravel())
"""


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["os_cache", pytest.param("process_cache", marks=pytest.mark.long)])
def test_stock_ffcv_yields_our_labels_and_pixels(folder, tmp_path, cache):
    source = image_folder(folder)

    def small(i: int) -> Image.Image:  # FFCV's plain decoder wants images of one size
        return source.load(i).resize((150, 110))

    path = tmp_path / "x.beton"
    convert(Source(source.names, source.labels, source.classes, small), path)
    result = subprocess.run(
        [sys.executable, "-c", _READ, str(path), str(tmp_path / "x.npz"), cache],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    read, dataset = np.load(tmp_path / "x.npz"), Dataset(path)
    np.testing.assert_array_equal(read["labels"], dataset.labels)
    # FFCV asks libjpeg-turbo for the fast inverse DCT.
    decoded = [simplejpeg.decode_jpeg(dataset.jpeg(i), fastdct=True) for i in range(len(dataset))]
    assert np.abs(read["images"].astype(int) - np.stack(decoded)).max() <= 1
