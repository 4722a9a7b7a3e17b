# SPDX-License-Identifier: Apache-2.0
"""Where the GPU's time of a streamed chunk goes, by kernel and by stage.

    python3 bench/kernel_times.py ROWS.tsv --chunks 4 [--first 8] [--top 25]

ROWS.tsv comes from a run of bench_stream under bench/kernel_times.c. A chunk ends with the last conversion to I420 (`rgb_to_i420`),
of which every latent frame has one; the last --chunks chunks of that run count, less --after later ones. Prints one JSON object:
stage_ms_<stage> a chunk, span_ms (wall), busy_ms (some kernel ran), and the longest kernels: name, calls and ms a chunk.
A kernel belongs to the first stage whose pattern its name matches; what the decoder runs between its first and last kernel of a
latent frame is decode by position, whatever its name.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess

STAGES = (
    ("decode", r"conv(?!ert)|i420|latent_to_image|image_to_latent|upsample|taehv"),
    ("select", r"select|topk|score"),
    ("attention", r"attention|attend|sdpa|flash"),
    ("linear", r"gemm|linear|product|matmul|nvjet|cutlass|cublas|splitK"),
    ("copy", r"^memcpy|^memset"),
    ("elementwise", r""),
)
# Kernels that both the transformer and the decoder launch; between two of the decoder's they are the decoder's.
SHARED = re.compile(r"activate|convert|pointwise|quantize", re.I)
Row = tuple[int, int, int, str]


def stage_of(name: str) -> str:
    return next(stage for stage, pattern in STAGES if re.search(pattern, name, re.I))


def demangled(names: list[str]) -> dict[str, str]:
    tool = shutil.which("c++filt") or shutil.which("cu++filt")
    if not tool or not names:
        return {n: n for n in names}
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True)
    plain = done.stdout.splitlines()
    return dict(zip(names, plain)) if len(plain) == len(names) else {n: n for n in names}


def short(name: str) -> str:
    """Without return type and parameters."""
    name = re.sub(r"\(anonymous namespace\)::", "", name)
    depth, end = 0, len(name)
    for i, c in enumerate(name):
        depth += (c == "<") - (c == ">")
        if c == "(" and depth == 0:
            end = i
            break
    return re.sub(r"^(void|static) ", "", name[:end])[:110]


def window(rows: list[Row], latent_frames: int, chunks: int, after: int) -> list[Row]:
    """The rows of `chunks` whole chunks, `after` more follow them."""
    ends = [i for i, r in enumerate(rows) if "i420" in r[3]]
    last = len(ends) - 1 - after * latent_frames
    first = last - chunks * latent_frames
    if first < 0:
        raise SystemExit(f"{len(ends)} conversions are too few for {chunks} chunks before {after}")
    return rows[ends[first] + 1:ends[last] + 1]


def stages(rows: list[Row]) -> list[str]:
    """The stage of each row; shared kernels take that of a decoder neighbour on their stream."""
    out = [stage_of(r[3]) for r in rows]
    before: dict[int, str] = {}
    for i, r in enumerate(rows):
        if out[i] == "elementwise" and SHARED.search(r[3]) and before.get(r[2]) == "decode":
            out[i] = "decode"
        if out[i] != "copy":
            before[r[2]] = out[i]
    return out


def busy_ns(rows: list[Row]) -> int:
    total, end = 0, 0
    for begin, stop, _, _ in sorted(rows):
        total += max(0, stop - max(begin, end))
        end = max(end, stop)
    return total


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("rows")
    p.add_argument("--chunks", type=int, default=4)
    p.add_argument("--after", type=int, default=0, help="chunks that follow those")
    p.add_argument("--latent-frames", type=int, default=3, help="of a chunk, each converted by itself")
    p.add_argument("--top", type=int, default=25)
    a = p.parse_args()
    with open(a.rows) as f:
        rows = [(int(b), int(e), int(s), n) for b, e, s, n in (line.rstrip("\n").split("\t", 3) for line in f)]
    rows.sort()
    rows = window(rows, a.latent_frames, a.chunks, a.after)
    names = demangled(sorted({r[3] for r in rows}))
    by_stage: dict[str, float] = {stage: 0 for stage, _ in STAGES}
    by_kernel: dict[tuple[str, str], list[float]] = {}
    for r, stage in zip(rows, stages(rows)):
        by_stage[stage] += (r[1] - r[0]) / 1e6 / a.chunks
        entry = by_kernel.setdefault((stage, short(names[r[3]])), [0, 0])
        entry[0] += 1 / a.chunks
        entry[1] += (r[1] - r[0]) / 1e6 / a.chunks
    span = (max(r[1] for r in rows) - min(r[0] for r in rows)) / 1e6 / a.chunks
    out = {f"stage_ms_{k}": round(v, 3) for k, v in by_stage.items()}
    out |= dict(span_ms=round(span, 3), busy_ms=round(busy_ns(rows) / 1e6 / a.chunks, 3),
                elementwise_share=round(by_stage["elementwise"] / span, 4), launches=round(len(rows) / a.chunks, 1))
    out["kernels"] = [dict(stage=k[0], name=k[1], calls=round(v[0], 1), ms=round(v[1], 3))
                      for k, v in sorted(by_kernel.items(), key=lambda x: -x[1][1])[:a.top]]
    print(json.dumps(out))


if __name__ == "__main__":
    main()
