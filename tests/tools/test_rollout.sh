#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# lightforced-rollout: the same bytes twice, a run compared with itself, and
# the exit statuses. usage: test_rollout.sh PROGRAM MODEL
set -eu
program=$1
model=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
	echo "FAIL: $1"
	exit 1
}
status() {
	set +e
	"$@" >"$work/out" 2>&1
	got=$?
	set -e
	echo "$got"
}
render() {
	"$program" --model "$model" --backend cpu --chunks 2 --seed 5 \
		--prompt "a red kite flies right over green hills at noon" \
		--at 1 --prompt "a white sailboat sails left on the sea at night" "$@"
}

render --out "$work/a.y4m" --latents "$work/a.safetensors" >"$work/a.txt"
render --out "$work/b.y4m" --threads 1 >"$work/b.txt"
cmp "$work/a.y4m" "$work/b.y4m" || fail "two runs differ"
head -c 9 "$work/a.y4m" | grep -q YUV4MPEG2 || fail "not a y4m file"
grep -q "pictures a second" "$work/a.txt" || fail "no timing"

# Its own latents, its own prompts: no difference at all.
"$program" --model "$model" --backend cpu --seed 5 --compare "$work/a.safetensors" >"$work/c.txt"
grep -q "^demo_sparse_psnr_db inf" "$work/c.txt" || fail "not equal to itself"
# Another policy: a finite difference.
"$program" --model "$model" --backend cpu --seed 5 --sparsity random:.9 \
	--compare "$work/a.safetensors" >"$work/d.txt"
grep -q "^demo_sparse_psnr_db [0-9]" "$work/d.txt" || fail "no difference to another policy"

# Another schedule: other pictures.
for schedule in "--steps 1000,400" "--renoise-above 0"; do
	# shellcheck disable=SC2086
	render --out "$work/e.y4m" $schedule >/dev/null
	! cmp -s "$work/a.y4m" "$work/e.y4m" || fail "$schedule changes nothing"
done
[ "$(status "$program" --model "$model" --backend cpu --prompt x --steps 400,500)" = 1 ] || fail "rising steps"
grep -q 'steps "400,500": must be model, or 1 to 16 falling numbers' "$work/out" || fail "rising steps are not explained"
[ "$(status "$program" --model "$model" --prompt x --renoise-above 1001)" = 2 ] || fail "a timestep above 1000"

[ "$(status "$program")" = 2 ] || fail "no arguments must be wrong usage"
[ "$(status "$program" --model "$model" --prompt x --chunks 0)" = 2 ] || fail "0 chunks"
[ "$(status "$program" --model "$model" --prompt x --mode fade)" = 2 ] || fail "unknown mode"
[ "$(status "$program" --model "$work" --backend cpu --prompt x)" = 1 ] || fail "no model there"
grep -q manifest.json "$work/out" || fail "the missing file is not named"
[ "$(status "$program" --model "$model" --backend cpu --compare "$work/a.y4m")" = 1 ] ||
	fail "not a safetensors file"
echo ok
