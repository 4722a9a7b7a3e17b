# SPDX-License-Identifier: Apache-2.0
"""What the measuring programs write: one JSON a run, that names machine, command and commit; and what of it was aimed at."""

from __future__ import annotations

import json
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
Metrics = dict[str, dict[str, object]]
# Metric -> (">=" or "<=", a number, or so many times the metric of that name, plus so much).
Targets = dict[str, tuple[str, float] | tuple[str, float, str] | tuple[str, float, str, float]]


def machine() -> str:
    with open("/proc/cpuinfo") as f:
        lines = f.read().splitlines()
    name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    flags = next(line for line in lines if line.startswith("flags")).split()
    known = [f for f in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8") if f in flags]
    return f"{len(os.sched_getaffinity(0))} cores of {name} ({' '.join(known)})"


def commit() -> str:
    said = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=12"], capture_output=True, text=True)
    return said.stdout.strip() or "unknown"


def read(path: str) -> dict:
    with open(path) as f:
        return json.load(f)


def write(path: str, bench: str, metrics: Metrics, program: str, **more: object) -> None:
    """program: how the command begins; more: in place of this tree's commit and this machine, or besides."""
    result = dict(bench=bench, commit=commit(), machine=machine(), command=" ".join([program, *sys.argv[1:]]), metrics=metrics) | more
    with open(path, "w") as f:
        json.dump(result, f, indent="\t")
        f.write("\n")


def verdicts(metrics: Metrics, targets: Targets) -> dict[str, str]:
    """Of the targets whose metrics were taken: what was wanted, and whether it was met."""
    out = {}
    for name, (sense, number, *rest) in targets.items():
        other = str(rest[0]) if rest else None
        if name not in metrics or (other and other not in metrics):
            continue
        value, wanted, told = float(str(metrics[name]["value"])), number, ""
        if other:
            plus = float(str(rest[1])) if len(rest) > 1 else 0.
            wanted = number * float(str(metrics[other]["value"])) + plus
            told = f" ({number:g} x {other}{f' {plus:+g}' if plus else ''})"
        met = value <= wanted if sense == "<=" else value >= wanted
        out[name] = f"{'met' if met else 'MISSED'}: {value:g} {sense} {wanted:g}{told}"
    return out
