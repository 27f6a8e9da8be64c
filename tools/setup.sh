#!/usr/bin/env bash
# Sets up the virtual environment that `make demo` and `make test` use, with every engine that can be had.
#
# FFCV compiles against OpenCV and libjpeg-turbo. Where we are root on a Debian, what it needs is
# installed; elsewhere FFCV is left out, with a word on how to get it, and so is DALI where it cannot be
# installed. Nothing but their own tests depends on them.
set -euo pipefail

python=${PYTHON:-python3}
venv=${VENV:-.venv}
# The last one is jpegtran, for lossless conversion.
debian_packages=(libopencv-dev libturbojpeg0-dev pkg-config g++ libjpeg-turbo-progs)

"$python" -c 'import sys; assert sys.version_info >= (3, 10), f"Python 3.10 or newer is needed, and this is {sys.version.split()[0]}; run make PYTHON=python3.12"'
"$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet --editable '.[dev]'

ffcv_libraries() {
    command -v pkg-config >/dev/null && command -v g++ >/dev/null &&
        { pkg-config --exists opencv4 || pkg-config --exists opencv; } && pkg-config --exists libturbojpeg
}

"${pip[@]}" install --quiet --editable '.[dali]' || echo "DALI is left out (its tests are skipped)" >&2

if ! { ffcv_libraries && command -v jpegtran >/dev/null; } && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing what FFCV compiles against: ${debian_packages[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${debian_packages[@]}"; } >/dev/null || echo "that did not work; going on without FFCV" >&2
fi
if ffcv_libraries; then
    "${pip[@]}" install --quiet --editable '.[ffcv]' || echo "FFCV did not build; its tests will be skipped" >&2
else
    echo "FFCV is left out (its tests are skipped): install ${debian_packages[*]}, then run this again" >&2
fi
