#!/usr/bin/env bash
# All tests: bash tools/test.sh PYTHON. Three lanes run beside each other, because many tests wait: those of the
# service for its processes, those of the benches for theirs. The first lane is shown as it runs, the others after it.
set -uo pipefail
python=${1:?give the Python to run them with}
shopt -s nullglob
service=(tests/test_serv*.py)
first=() second=()
for file in tests/test_*.py; do
    case "$file" in
        tests/test_serv*) ;;
        tests/test_[a-g]*) first+=("$file") ;;
        *) second+=("$file") ;;
    esac
done

logs=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$logs"' EXIT
"$python" -m pytest "${service[@]}" >"$logs/service" 2>&1 &
lanes=($!)
"$python" -m pytest "${second[@]}" >"$logs/second" 2>&1 &
lanes+=($!)
"$python" -m pytest "${first[@]}"
failed=$?
for lane in "${lanes[@]}"; do
    wait "$lane" || failed=1
done
cat "$logs/second" "$logs/service"
exit "$failed"
