"""`budgetloader inspect`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from budgetloader.commands.arguments import Add, printable

if TYPE_CHECKING:
    import numpy as np

    from budgetloader.dataset import Dataset

HELP = "say what is in a .beton file"
_EXAMINED = 256  # images whose headers are read


def add_arguments(add: Add) -> None:
    add("file", help="a .beton, or its address: s3://bucket/train.beton")


def run(options: argparse.Namespace) -> int:
    import numpy as np

    from budgetloader.storage import open_file

    dataset = open_file(options.file)
    chosen = np.unique(np.linspace(0, len(dataset) - 1, _EXAMINED).astype(int))
    labels = np.unique(dataset.labels)
    lines = {
        "samples": f"{len(dataset):,}",
        "classes": f"{len(labels):,} (labels {labels[0]} … {labels[-1]}){_names(dataset.classes)}",
        "images": " × ".join(f"{a.min()}–{a.max()}" for a in (dataset.widths, dataset.heights)) + " pixels",
        "image bytes": f"{dataset.sizes.sum():,}, {dataset.sizes.mean() / 1000:.1f} kB each",
        "written by": _writer(dataset.notes),
        "fingerprint": dataset.fingerprint,
    }
    others = [name for name in dataset.fields if name not in (dataset.image_field, dataset.label_field)]
    if others:
        fields = [dataset.column(name).field for name in others]
        lines["fields"] = printable(", ".join(f"{one.name} ({one.role or one.kind})" for one in fields))
    if dataset.label_field is None:
        lines["classes"] = "none: it has no integers that could be labels"
    for name, value in lines.items():
        print(f"{name:>12}: {value}")
    if len(dataset.raw):
        print(f"{'pixels':>12}: {dataset.raw.sum():,} of {len(dataset):,} samples are stored so, and need no decoding")
    for kind, count in _kinds(dataset, chosen).most_common():
        print(f"{'JPEGs':>12}: {count} of {len(chosen)} examined {kind}")
    return 0


def _kinds(dataset: Dataset, chosen: np.ndarray) -> Counter[str]:
    """How many of the chosen samples are what kind of JPEG."""
    from budgetloader.jpeg import JpegError, read_frame

    kinds: Counter[str] = Counter()
    for sample in chosen:
        if len(dataset.raw) and dataset.raw[sample]:
            kinds["are no JPEGs, but pixels"] += 1
            continue
        try:
            frame = read_frame(dataset.jpeg(sample))
        except JpegError as error:
            kinds[f"damaged: {error}"] += 1
            continue
        if len(frame.segments):
            kinds["with a segment table: cropped on compressed bytes"] += 1
        else:
            kinds["without a segment table: decoded whole, slower; convert the images again to have one"] += 1
    return kinds


def _names(classes: Sequence[str]) -> str:
    return f": {printable(', '.join(classes[:6]))}{', …' if len(classes) > 6 else ''}" if classes else ""


def _writer(notes: dict[str, Any]) -> str:
    if not notes:
        return "FFCV, or somebody else"
    return ", ".join(
        f"{k} {str(notes[k])[:40]!a}".replace("'", "")
        for k in ("writer", "quality", "subsampling", "interval")
        if k in notes
    )
