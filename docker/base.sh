#!/usr/bin/env bash
# Makes a base image with nothing but debootstrap, for machines that reach no registry of images:
#   bash docker/base.sh && BASE=localhost/debian-python bash docker/check.sh
# It needs root, debootstrap and buildah. This machine's certificates go along, for what stands between it and pip.
set -euo pipefail
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv bookworm "$root/tree"
install -D -m 644 /etc/ssl/certs/ca-certificates.crt "$root/tree/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/tree/var/cache/apt/archives/*.deb
tar -C "$root/tree" -cf "$root/tree.tar" .
container=$(buildah from scratch)
buildah add --quiet "$container" "$root/tree.tar" /
buildah config --cmd bash "$container"
buildah commit --quiet --rm "$container" localhost/debian-python
