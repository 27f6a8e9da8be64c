"""The packages of `pip install 'budgetloader[bench]'`, checked before a bench trains."""

from __future__ import annotations

import importlib.util

from budgetloader.errors import LoaderError

PACKAGES = {  # import name → what to install
    "cv2": "opencv-python-headless",
    "matplotlib": "matplotlib",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "torchvision": "torchvision",
}


def check() -> None:
    """See that the benches' packages are installed; nothing is imported.

    Raises:
        LoaderError: names those that are missing, and the extra.
    """
    missing = [package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise LoaderError(
            f"{', '.join(missing)}: not installed, and benches need it; pip install 'budgetloader[bench]'"
        )
