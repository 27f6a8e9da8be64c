#!/usr/bin/env bash
# All tests: bash tools/test.sh PYTHON. Those of the service mostly wait, so that they run beside the others.
set -uo pipefail
python=${1:?give the Python to run them with}
log=$(mktemp)
trap 'rm -f "$log"; kill "$service" 2>/dev/null' EXIT
"$python" -m pytest tests/test_service.py >"$log" 2>&1 &
service=$!
"$python" -m pytest --ignore tests/test_service.py
others=$?
wait "$service"
served=$?
echo "tests/test_service.py:"
cat "$log"
exit $((others || served))
