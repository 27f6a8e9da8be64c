#!/usr/bin/env bash
# All tests: bash tools/test.sh PYTHON. Those of the service mostly wait, so that they run beside the others.
set -uo pipefail
python=${1:?give the Python to run them with}
served_tests=(tests/test_service.py tests/test_served_*.py)
log=$(mktemp)
trap 'rm -f "$log"; kill "$service" 2>/dev/null' EXIT
"$python" -m pytest "${served_tests[@]}" >"$log" 2>&1 &
service=$!
"$python" -m pytest "${served_tests[@]/#/--ignore=}"
others=$?
wait "$service"
served=$?
echo "${served_tests[*]}:"
cat "$log"
exit $((others || served))
