# SPDX-License-Identifier: Apache-2.0
"""How near the engine is to its references, as figures:

    python3 bench/golden.py --out bench/results/golden-cpu.json [--build build] [FILE...]

golden_cpu_max_rel_error: worst L-inf relative error over every float output of the module files. hsa_lists_identical: 1 or 0.
demo_rollout_*: the demo model's whole rollout. demo_sparse_psnr_db: the manifest's sparsity against the dense run, same
prompts and noise, chunks 1 to 9. All in f32 on the CPU.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import re
import subprocess
import sys

from result import ROOT, write


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} exits with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def find(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if not match:
        sys.exit(f"no {pattern!r} in:\n{text}")
    return float(match.group(1))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="*")
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--model", default=os.path.join(ROOT, "models", "demo"))
    p.add_argument("--out", required=True)
    a = p.parse_args()
    folder = os.path.join(ROOT, "tests", "golden")
    rollout = os.path.join(folder, "demo_rollout.safetensors")
    files = a.files or sorted(f for f in glob.glob(os.path.join(folder, "*.safetensors")) if f != rollout)
    check = os.path.join(a.build, "tools", "golden_check")
    modules = run(check, *files)
    whole = run(check, "--model", a.model, rollout)
    sparse = run(os.path.join(a.build, "tools", "lightforced-rollout"), "--model", a.model, "--backend", "cpu", "--precision", "f32",
                 "--compare", rollout)
    metrics = {
        "golden_cpu_max_rel_error": (find(r"worst relative error (\S+)", modules), ""),
        "hsa_lists_identical": (float("FAIL" not in modules), ""),
        "demo_rollout_latents_rel_error": (find(r"latents .* rel (\S+)", whole), ""),
        "demo_rollout_mean_abs_255": (find(r"frames \(mean abs of 255\)\s+(\S+)", whole), ""),
        "demo_sparse_psnr_db": (find(r"demo_sparse_psnr_db (\S+)", sparse), "dB"),
    }
    result = {k: dict(value=v, unit=u) for k, (v, u) in metrics.items()}
    write(a.out, "golden-cpu", result, "python3 bench/golden.py")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
