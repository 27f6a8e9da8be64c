"""Paths that users give."""

from __future__ import annotations

import os
import re
from pathlib import Path

from budgetloader.errors import DatasetError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def local(path: str | os.PathLike) -> Path:
    """A path on this machine's disks.

    Raises:
        DatasetError: it is the address of something elsewhere, such as s3://bucket/images.
    """
    text = os.fspath(path)
    if isinstance(text, str) and _ADDRESS.match(text):
        raise DatasetError(
            f"{text} is an address, not a path on this machine; copy or mount it, and give its path here"
        )
    return Path(path)
