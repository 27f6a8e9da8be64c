#!/usr/bin/env bash
# How large an installation is: bash tools/install_size.sh PYTHON [EXTRAS]
# Installs the last commit into an empty environment, and adds up what pip put there (du, in MB of 10^6 bytes).
set -euo pipefail
python=${1:?give a Python}
extras=${2:-}
root=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
git -C "$root" archive HEAD | tar -x -C "$place" --one-top-level=source
"$python" -m venv "$place/venv"
began=$SECONDS
"$place/venv/bin/python" -m pip --disable-pip-version-check install --quiet "$place/source${extras:+[$extras]}"
seconds=$((SECONDS - began))
"$place/venv/bin/python" - "$seconds" <<'PYTHON'
import pathlib
import sys
import sysconfig

site = pathlib.Path(sysconfig.get_paths()["purelib"])


def megabytes(path):
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    return sum(p.stat().st_size for p in files) / 1e6


sizes = {path.name: megabytes(path) for path in site.iterdir()}
cuda = sum(size for name, size in sizes.items() if name.startswith(("nvidia", "triton", "cuda")))
print(f"{sum(sizes.values()):,.0f} MB in site-packages, of which CUDA's libraries and Triton {cuda:,.0f} MB")
print(f"pip took {sys.argv[1]} s")
for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:8]:
    print(f"  {name}: {size:,.0f} MB")
PYTHON
