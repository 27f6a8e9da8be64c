"""JPEGs to fuzz with, and their readers."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np

from budgetloader.bench.fuzz_kind import Kind, mangle


def pictures() -> list[bytes]:
    """JPEGs of several forms, with segment tables where there can be one."""
    from PIL import Image

    from budgetloader import jpeg, jpeg_tables

    found = []
    rng = np.random.default_rng(0)
    for width, height in ((64, 48), (17, 90), (130, 33)):
        image = Image.fromarray(rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)).resize(
            (width, height)
        )
        for subsampling in jpeg_tables.SUBSAMPLINGS:
            found.append(jpeg_tables.encode(image, quality=80, subsampling=subsampling, interval=2))  # type: ignore[arg-type]
        for options in ({}, {"progressive": True}, {"restart_marker_blocks": 1}):
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", **options)
            found.append(buffer.getvalue())
        buffer = io.BytesIO()
        image.convert("L").save(buffer, "JPEG", restart_marker_blocks=1)
        found.append(jpeg.add_table(buffer.getvalue()))
    return found


class Jpegs(Kind):
    """JPEG headers with lying segment tables, through every step to pixels."""

    def __init__(self, folder: Path) -> None:
        self._corpus = pictures()
        self.size = len(self._corpus)

    def run(self, seed: int, number: int) -> bool:
        import simplejpeg

        from budgetloader import jpeg
        from budgetloader.errors import DatasetError

        rng = random.Random(f"jpeg {seed} {number}")
        data = bytearray(rng.choice(self._corpus))
        header = data.rindex(b"\xff\xda") if b"\xff\xda" in data else len(data)
        mangle(rng, data, within=rng.choice((header, header, len(data))))
        array = np.frombuffer(bytes(data), np.uint8)
        frame = None
        try:
            frame = jpeg.read_frame(array)
            assert 0 <= len(frame.segments) <= len(array)
        except DatasetError:
            pass
        height, width = (frame.height, frame.width) if frame and rng.random() < 0.7 else (rng.randrange(1, 200),) * 2
        window = [rng.choice((0, 1, rng.randrange(-3, 300))) for _ in range(4)]
        try:
            jpeg.SizeCheck()(array, height=height, width=width)
            top, left = window[0] % height, window[1] % width
            inside = rng.random() < 0.8
            part, y, x = jpeg.Cropper().crop(
                array,
                top=top if inside else window[0],
                left=left if inside else window[1],
                height=1 + window[2] % (height - top) if inside else window[2],
                width=1 + window[3] % (width - left) if inside else window[3],
            )
            assert 0 <= y <= top and 0 <= x <= left and len(part) <= len(array) + 2
            if height * width <= 1 << 20:  # a dataset's limit refuses larger ones
                simplejpeg.decode_jpeg(part, buffer=np.empty(3 * height * width, np.uint8))
            return True
        except (DatasetError, ValueError):
            return False
