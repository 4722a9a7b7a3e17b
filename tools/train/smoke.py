# SPDX-License-Identifier: Apache-2.0
"""Runs every stage at toy size on the CPU, stopping and resuming the denoiser half way:

    python3 tools/train/smoke.py

Fails where a stage fails, leaves out a file, or writes tensors of other names or shapes than the demo model has.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import torch

import nets
from runtime import load_dit, load_weights
from text import Tokenizer, make

HERE = os.path.dirname(os.path.abspath(__file__))
EVAL = os.path.join(os.path.dirname(HERE), "eval")
LAYERS = 2


def run(directory: str, script: str, *arguments: str) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, script, *arguments]
    print("+", " ".join(command), flush=True)
    subprocess.run(command, check=True, env=environment, cwd=directory)


def same_names(got: dict[str, torch.Tensor], want: torch.nn.Module) -> None:
    expected = {k: tuple(v.shape) for k, v in want.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in got.items()}
    if expected != found:
        raise SystemExit(f"tensors differ: {sorted(set(expected.items()) ^ set(found.items()))[:6]}")


def main() -> None:
    with tempfile.TemporaryDirectory() as work:
        tokenizer = os.path.join(work, "tokenizer.model")
        make(tokenizer, sentences=4000)
        common = ("--out", work, "--tokenizer", tokenizer, "--clips", "1", "--batch", "1", "--layers", str(LAYERS),
                  "--seconds", "900", "--steps", "4")

        def stage(name: str, *arguments: str) -> None:
            run(work, os.path.join(HERE, name), *arguments)

        stage("ae.py", "--out", work, "--seconds", "900", "--steps", "2", "--clips", "2", "--batch", "1", "--test", "1")
        stage("dit.py", *common, "--to", ".5")
        half = json.load(open(os.path.join(work, "dit.json"), encoding="utf-8"))
        stage("dit.py", *common)
        whole = json.load(open(os.path.join(work, "dit.json"), encoding="utf-8"))
        if (half["steps"], half["progress"], whole["steps"], whole["progress"]) != (4, .5, 8, 1.):
            raise SystemExit(f"the denoiser did not go on where it stopped: {half} then {whole}")
        stage("distill.py", *common, "--sparse", "hsa:.85/.95", "--guidance", "auto")
        stage("average.py", work, "base", "distilled", "mix")
        stage("synonyms.py", work, "--tokenizer", tokenizer, "--steps", "2", "--batch", "2", "--cases", "2", "--layers", str(LAYERS))
        same_names(load_weights(os.path.join(work, "ae.safetensors")), nets.TAEHV())
        t5, dit = nets.build(len(Tokenizer(tokenizer)), torch.device("cpu"), LAYERS)
        same_names(load_weights(os.path.join(work, "t5.safetensors")), t5)
        for tag in ("base", "distilled", "mix"):
            same_names(load_dit(work, tag), dit)
        run(work, os.path.join(EVAL, "score.py"), "--weights", work, "--tokenizer", tokenizer, "--tag", "mix", "--out", work,
            "--toy", "--layers", str(LAYERS))
    print("smoke: every stage ran, stopped and went on")


if __name__ == "__main__":
    main()
