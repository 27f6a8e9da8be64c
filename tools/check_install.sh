#!/usr/bin/env bash
# Installs the last commit of the package with pip alone into an empty environment of each given Python, and uses it from there:
#   bash tools/check_install.sh python3.10 python3.11 python3.12 python3.13
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
[ $# -gt 0 ] || { echo "usage: bash tools/check_install.sh PYTHON…" >&2; exit 2; }

for python in "$@"; do
    place=$(mktemp -d)
    trap 'rm -rf "$place"' EXIT
    echo "== $("$python" --version): pip install ."
    git -C "$root" archive HEAD | tar -x -C "$place" --one-top-level=source
    "$python" -m venv "$place/venv"
    "$place/venv/bin/python" -m pip --disable-pip-version-check install --quiet "$place/source"
    rm -r "$place/source" # from here on there is nothing but what pip installed
    (
        cd "$place"
        venv/bin/python - <<'PYTHON'
import pathlib

import numpy as np
from PIL import Image

for i in range(40):
    path = pathlib.Path("images", f"class{i % 4}", f"{i}.jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(i).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
PYTHON
        venv/bin/budgetloader convert images train.beton
        venv/bin/budgetloader verify train.beton
        venv/bin/budgetloader train --data train.beton --network resnet20 --recipe cifar --schedule of:1,0.5 --epochs 2 \
            --image-size 32 --batch-size 8
        venv/bin/budgetloader doctor --image-size 64 --epochs 1
    )
    rm -rf "$place"
    echo "== $("$python" --version): works"
done
