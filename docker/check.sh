#!/usr/bin/env bash
# Builds the CPU image with docker, podman or buildah, whichever is there, and uses it: the tests' smoke
# part, a service with two trainers, and the demo, all as its user, who is not root.
#
#   bash docker/check.sh                                  # on the base image that the Dockerfile names
#   bash docker/base.sh && BASE=localhost/debian-python bash docker/check.sh
#
# BASE: another base image. TORCH_INDEX: an index of CPU-only torch wheels. TOOL: docker, podman or buildah.
set -euo pipefail
cd "$(dirname "$0")/.."
image=budgetloader-check
tool=${TOOL:-}
for candidate in docker podman buildah; do
    if [ -z "$tool" ] && command -v "$candidate" >/dev/null && "$candidate" info >/dev/null 2>&1; then
        tool=$candidate
    fi
done
[ -n "$tool" ] || { echo "none of docker, podman and buildah works here; install one" >&2; exit 1; }
arguments=(--network host --file docker/Dockerfile --target check --tag "$image")
[ -z "${BASE:-}" ] || arguments+=(--build-arg "BASE=$BASE")
[ -z "${TORCH_INDEX:-}" ] || arguments+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
echo "== $tool build"
"$tool" build "${arguments[@]}" .

inside=$(mktemp)
trap 'rm -f "$inside"' EXIT
cat >"$inside" <<'INSIDE'
set -euo pipefail
[ "$(id -u)" != 0 ] || { echo "the image's user is root" >&2; exit 1; }
work=$(mktemp -d)
cd "$work"
trap '[ $? = 0 ] || tail -n 20 ./*.log' EXIT
export BUDGETLOADER_SERVICES="$work/services" MPLCONFIGDIR="$work"

echo "== smoke tests"
names=(import schedule budget theory order windows jpeg dataset convert cli sampler engines loader)
files=()
for name in "${names[@]}"; do files+=("$(find /opt/check/tests/loader -name "test_$name.py")"); done
python -m pytest -c /opt/check/pyproject.toml -p no:cacheprovider "${files[@]}"

echo "== a service and two trainers, as in compose.yaml"
budgetloader generate images --images 96
budgetloader convert images train.beton
budgetloader serve train.beton --name images --memory 200MB >serve.log 2>&1 &
server=$!
for _ in $(seq 120); do grep -qs ^serving serve.log && break || sleep 0.5; done
trainers=()
for rate in 0.05 0.02; do
    budgetloader train --data service:images --network mobilenet_v2 --recipe imagenet --schedule 0.618 --epochs 2 \
        --image-size 64 --batch-size 16 --learning-rate $rate --out "runs/$rate" >"train-$rate.log" 2>&1 &
    trainers+=($!)
done
for trainer in "${trainers[@]}"; do wait "$trainer"; done
tail -n 1 train-*.log
budgetloader top images --readings 1
kill -INT "$server"
wait "$server"

echo "== the demo"
python -m budgetloader.bench.imagenet_mnv2 --out demo
test -s demo/results.json
INSIDE

echo "== $tool run"
if [ "$tool" = buildah ]; then
    container=$(buildah from --shm-size 1g "$image")
    trap 'rm -f "$inside"; buildah rm "$container" >/dev/null' EXIT
    buildah run --network host "$container" -- bash -c "$(cat "$inside")"
else
    "$tool" run --rm --network host --shm-size 1g --entrypoint bash "$image" -c "$(cat "$inside")"
fi
echo "== the image works"
