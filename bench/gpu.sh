#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Everything that is measured on a GPU, in one command: builds, tests, measures, writes one JSON.
#
#	bench/gpu.sh [--build DIR] [--parts golden,ops,...] [--quick] [--out bench/results/gpu-NAME.json]
#
# --build: a build directory, or a folder with the programs side by side; without it build-gpu/ is made for this
# machine's card. The parts and every figure: bench/gpu.py. Exit status 1 when a part failed, after all were tried.
set -eu
cd "$(dirname "$0")/.."
case " $* " in
*" --build "*) exec python3 bench/gpu.py "$@" ;;
esac
cap=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
case $cap in 90) cap=90a ;; 12?) cap=${cap}a ;; esac
[ -e build-gpu/build.ninja ] || meson setup build-gpu -Dcuda=enabled -Dgpu_archs="$cap" -Dtests=enabled
ninja -C build-gpu
exec python3 bench/gpu.py --build build-gpu "$@"
