#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What a GPU does to be fast changes no byte: passes that are replayed and decoding
# beside them against the same run without either, over a prompt change and a
# cut; and nothing is allocated after the second chunk.
# usage: test_replay.sh PROGRAM MODEL [BACKEND]; 77 without a GPU.
set -eu
program=$1
model=$2
backend=${3:-cuda}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
	echo "FAIL: $1"
	exit 1
}
render() {
	"$program" --model "$model" --backend "$backend" --chunks 40 --seed 5 \
		--prompt "a red kite flies right over green hills at noon" \
		--at 18 --prompt "a white sailboat sails left on the sea at night" \
		--at 30 --mode cut --prompt "a red kite flies right over green hills at noon" "$@"
}

if ! "$program" --model "$model" --backend "$backend" --chunks 1 --prompt x >"$work/try" 2>&1; then
	cat "$work/try"
	grep -qE "no NVIDIA GPU|no CUDA|driver" "$work/try" && exit 77
	fail "does not run"
fi
render --out "$work/fast.y4m" >"$work/fast.txt"
render --out "$work/plain.y4m" --eager --one-lane >"$work/plain.txt"
tail -n 3 "$work/fast.txt" "$work/plain.txt"
cmp "$work/fast.y4m" "$work/plain.y4m" || fail "replaying changes pictures"
grep -q " 0 allocations after the second chunk" "$work/fast.txt" || fail "allocations while running"
case $backend in
cuda*) grep -qE "[1-9][0-9]* replayed, 0 refused" "$work/fast.txt" || fail "nothing was replayed" ;;
esac
echo ok
