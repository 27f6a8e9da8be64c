#!/usr/bin/env bash
# Sets up the virtual environment: bash tools/setup.sh demo | all
#
#   demo  what `make demo` needs: the native engine, torch, the benches.
#   all   what `make test` needs, too: every engine that can be had, the service, the test tools.
#
# FFCV compiles against OpenCV and libjpeg-turbo. Where we are root on a Debian, what it needs is
# installed; elsewhere FFCV is left out, with a word on how to get it, and so is DALI where it cannot be
# installed. Nothing but their own tests depends on them. uv installs, where it is there, else pip.
set -euo pipefail

what=${1:?demo or all}
python=${PYTHON:-python3}
venv=${VENV:-.venv}
ffcv_packages=(libopencv-dev libturbojpeg0-dev pkg-config g++)
# jpegtran, for lossless conversion, and a browser that opens the benches' pages.
test_packages=(libjpeg-turbo-progs chromium)

"$python" -c 'import sys; assert sys.version_info >= (3, 10), f"Python 3.10 or newer is needed, and this is {sys.version.split()[0]}; run make PYTHON=python3.12"'
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
if command -v uv >/dev/null; then
    install=(uv pip install --quiet --python "$venv/bin/python" --editable)
else
    install=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet --editable)
fi

if [ "$what" = demo ]; then
    "${install[@]}" '.[bench]'
    exit
fi

ffcv_libraries() {
    command -v pkg-config >/dev/null && command -v g++ >/dev/null &&
        { pkg-config --exists opencv4 || pkg-config --exists opencv; } && pkg-config --exists libturbojpeg
}

debian() { # PACKAGE…: whether they could be installed
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "installing $*"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
        >/dev/null || { echo "that did not work" >&2; return 1; }
}

"${install[@]}" '.[dev]'
"${install[@]}" '.[dali]' || echo "DALI is left out (its tests are skipped)" >&2
ffcv_libraries || debian "${ffcv_packages[@]}" || true
{ command -v jpegtran && command -v chromium; } >/dev/null || debian "${test_packages[@]}" ||
    echo "tests that need jpegtran or chromium are skipped: install ${test_packages[*]}" >&2
if ffcv_libraries; then
    "${install[@]}" '.[ffcv]' || echo "FFCV did not build; its tests will be skipped" >&2
else
    echo "FFCV is left out (its tests are skipped): install ${ffcv_packages[*]}, then run this again" >&2
fi
