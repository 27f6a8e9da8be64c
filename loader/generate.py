"""An ImageNet-like folder of JPEGs, made from real photographs that scikit-image and scikit-learn ship.

A class is a photograph. An image of it is a random part of that photograph, turned, mirrored,
recoloured, partly covered by pieces of other classes' photographs, with sensor noise: a network can
learn it, but not in an epoch. Sizes (about 500 × 375), quality (90) and file sizes (60–110 KB) are
those of ImageNet's typical image, so that decoding costs what it costs there.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from budgetloader.errors import DatasetError
from budgetloader.parallel import in_order
from budgetloader.paths import local

_SKIMAGE = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
_SKLEARN = ("china.jpg", "flower.jpg")
QUALITY = 90
_FILE_BYTES = (64_000, 106_000)  # aimed at; the last step of the search lands within 60–110 KB
_SEARCH_STEPS = 6


def photographs() -> dict[str, np.ndarray]:
    """Class name → photograph: uint8 [height, width, 3], RGB.

    Raises:
        DatasetError: a package that this needs is not installed, or has no such photograph.
    """
    try:
        import cv2
        import skimage
        import sklearn.datasets
    except ImportError as error:
        raise DatasetError(f"{error.name} is not installed; pip install 'budgetloader[bench]'") from None
    folders = (
        (Path(skimage.__file__).parent / "data", _SKIMAGE),
        (Path(sklearn.datasets.__file__).parent / "images", _SKLEARN),
    )
    photos = {}
    for folder, names in folders:
        for name in names:
            pixels = cv2.imread(str(folder / name), cv2.IMREAD_COLOR)
            if pixels is None:
                raise DatasetError(f"the photograph {name} is not where its package ships it; reinstall the package")
            photos[name.split(".")[0]] = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return photos


def generate(
    root: str | Path, *, images: int, seed: int = 0, progress: Callable[[int], None] = lambda done: None
) -> int:
    """Write `images` JPEGs to root/CLASS/NUMBER.jpg; the classes have equally many, ±1.

    Any image depends on (seed, its number) alone.

    Returns:
        The bytes written.

    Raises:
        DatasetError: `root` exists and is not empty, or cannot be written.
    """
    root = local(root)
    if images < 1:
        raise DatasetError(f"images {images} is not at least 1")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DatasetError(f"{root} exists and is not empty; choose another folder")
    photos = photographs()
    names = list(photos)
    partial = root.with_name(root.name + ".partial")
    written = 0
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for name in names[:images]:
            (partial / name).mkdir(parents=True)

        def work(i: int) -> int:
            data = render(photos, label=i % len(names), seed=seed, number=i)
            (partial / names[i % len(names)] / f"{i:07d}.jpg").write_bytes(data)
            return len(data)

        for i, size in enumerate(in_order(work, images)):
            written += size
            progress(i + 1)
        if root.is_dir():
            root.rmdir()
        partial.rename(root)
    except OSError as error:
        raise DatasetError(f"cannot write {error.filename or partial}: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def render(photos: dict[str, np.ndarray], *, label: int, seed: int, number: int) -> bytes:
    """One image of class `label` as a JPEG."""
    random = np.random.Generator(np.random.Philox(key=[seed, number]))
    names = list(photos)
    long, short = (round(side * random.uniform(0.94, 1.02)) for side in (500, 375))
    height, width = (short, long) if random.random() < 0.75 else (long, short)
    canvas = _part(photos[names[label]], height, width, random, zoom=(0.25, 0.9))
    for _ in range(random.integers(1, 4)):
        other = photos[names[(label + random.integers(1, len(names))) % len(names)]]
        h, w = (int(side * random.uniform(0.25, 0.6)) for side in (height, width))
        top, left = random.integers(0, height - h + 1), random.integers(0, width - w + 1)
        canvas[top : top + h, left : left + w] = _part(other, h, w, random, zoom=(0.1, 0.6))
    gains = random.uniform(0.7, 1.3, 3) * random.uniform(0.7, 1.2)
    pixels = canvas.astype(np.float32) * gains.astype(np.float32) + np.float32(random.uniform(-20, 20))
    return _encode_to_size(pixels, random.standard_normal((height, width, 3), dtype=np.float32), random)


def _part(
    photo: np.ndarray, height: int, width: int, random: np.random.Generator, *, zoom: tuple[float, float]
) -> np.ndarray:
    """A turned, perhaps mirrored part of a photograph: uint8 [height, width, 3]."""
    import cv2

    share = np.sqrt(random.uniform(*zoom))
    scale = share * min(photo.shape[0] / height, photo.shape[1] / width)
    angle = random.uniform(-0.35, 0.35)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    mirror = -1 if random.random() < 0.5 else 1
    reach = np.array((width, height)) * scale / 2
    center = np.array(photo.shape[1::-1]) / 2
    center = center + random.uniform(-1, 1, 2) * np.maximum(center - reach, 0)
    turn = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
    shift = center - turn @ (np.array((width, height)) / 2)
    inverse = np.column_stack((turn, shift))
    # An area filter would be better where a photograph is larger than its part; a blur does for this.
    source = cv2.GaussianBlur(photo, (0, 0), scale / 2) if scale > 1.2 else photo
    return cv2.warpAffine(
        source, inverse, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )


def _encode_to_size(pixels: np.ndarray, noise: np.ndarray, random: np.random.Generator) -> bytes:
    """Encode with as much noise, or blur, as brings the file to ImageNet's typical size."""
    import cv2

    goal = random.uniform(*_FILE_BYTES)
    level, low, high = 4.0, -4.0, 40.0  # standard deviation of the noise; negative: of a blur
    data = b""
    changed: np.ndarray
    for _ in range(_SEARCH_STEPS):
        changed = pixels + noise * np.float32(level) if level >= 0 else cv2.GaussianBlur(pixels, (0, 0), -level)
        data = _jpeg(np.clip(changed, 0, 255).astype(np.uint8))
        if abs(len(data) - goal) < 3_000:
            break
        low, high = (level, high) if len(data) < goal else (low, level)
        level = (low + high) / 2
    return data


def _jpeg(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
