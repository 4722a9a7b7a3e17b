#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sparse attention of tools/train against the references and against the engine.

    test_sparse.py GOLDEN_FOLDER [ROLLOUT MODEL]

With ROLLOUT (lightforced-rollout) and MODEL, the noise of the reference rollout goes through both under each policy, four
chunks, or under the first policy eight, in which the window slides. Exit status 77 where PyTorch or safetensors are missing.
"""

import json
import os
import subprocess
import sys
import tempfile

import with_torch  # noqa: F401, I001
import nets
import sparse
import torch
from rollout import ALWAYS, Rollout
from runtime import load_weights
from safetensors import safe_open

POLICIES = {"hsa:.85/.95": 8, "topk:.7": 4, "window:0": 4}  # chunks of each


def fail(text: str) -> None:
    print("FAIL", text)
    sys.exit(1)


def check_case(f: "safe_open", case: dict) -> None:
    policy = sparse.Policy("hsa", case["sparsity"], case["sparsity_base"], case["block"], case["frame_tokens"],
                           case["frames_per_chunk"], case["window"], case["frames"], case["keep_frames"], case["keep_sink"],
                           case["keep_near"])
    shares = f.get_tensor(f"{case['name']}.sparsity")
    if (torch.tensor(policy.growth()) - shares).abs().max() > 1e-6:
        fail(f"{case['name']}: growth {policy.growth()} is not {shares.tolist()}")
    for chunk in case["chunks"]:
        get = lambda what: f.get_tensor(f"{case['name']}.chunk{chunk}.{what}")  # noqa: E731
        q, k, v = (get(what)[None] for what in "qkv")
        use = sparse.select(q, k, policy, chunk=chunk)
        blocks = get("blocks")
        use = torch.ones(blocks.shape[0], blocks.shape[1], blocks.shape[2], dtype=torch.bool) if use is None else use[0]
        mine = [sorted(row.nonzero().flatten().tolist()) for row in use.flatten(0, 1)]
        if mine != [sorted(row) for row in blocks.flatten(0, 1).tolist()]:
            fail(f"{case['name']} chunk {chunk}: other blocks")
        mask = sparse.token_mask(use[None], policy)
        worst = (nets.attend(q, k, v, mask)[0] - get("out")).abs().max().item()
        if worst > 1e-4:
            fail(f"{case['name']} chunk {chunk}: output is off by {worst}")


def check_goldens(folder: str) -> None:
    cases = 0
    for name in ("hsa.safetensors", "odd_hsa.safetensors"):
        with safe_open(os.path.join(folder, name), "pt") as f:
            for case in json.loads(f.metadata()["cases"]):
                check_case(f, case)
                cases += 1
    print(f"{cases} cases of the references: same blocks, same outputs")


@torch.no_grad()
def rollout(model: str, golden: "safe_open", policy: str, chunks: int) -> torch.Tensor:
    with open(os.path.join(model, "manifest.json"), encoding="utf-8") as f:
        manifest = json.load(f)
    _, dit = nets.build(manifest["text"]["vocab"], torch.device("cpu"))
    dit.load_state_dict(load_weights(*(os.path.join(model, name) for name in manifest["dit"]["files"])))
    prompts = dict(json.loads(golden.metadata()["prompts"]))
    noise, above = golden.get_tensor("noise"), manifest["schedule"].get("renoise_above", ALWAYS)
    draws = iter(noise[0])
    mask = sparse.Sparse(sparse.parse(policy))
    stream, out, text = Rollout(dit, 1, torch.device("cpu"), mask, lambda: next(draws)[None]), [], torch.empty(0)
    for chunk in range(chunks):
        if chunk in prompts:
            real = golden.get_tensor(f"prompt{chunk}.context")
            padded = torch.zeros(1, nets.TEXT_LENGTH, real.shape[1])
            padded[0, :len(real)] = real
            text = dit.text_embedding(padded)
        draws = iter(noise[chunk])
        out.append(stream.chunk(text, renoise_above=above)[0])
    return torch.cat(out)


def check_engine(folder: str, program: str, model: str) -> None:
    path = os.path.join(folder, "demo_rollout.safetensors")
    with safe_open(path, "pt") as golden, tempfile.TemporaryDirectory() as work:
        for policy, chunks in POLICIES.items():
            file = os.path.join(work, "latents.safetensors")
            subprocess.run([program, "--model", model, "--compare", path, "--chunks", str(chunks), "--sparsity", policy,
                            "--precision", "f32", "--latents", file], check=True, stdout=subprocess.DEVNULL)
            with safe_open(file, "pt") as f:
                engine = f.get_tensor("latents")
            worst = (rollout(model, golden, policy, chunks) - engine.view(-1, *nets.LATENT)).abs()
            print(f"{policy}: {chunks} chunks, latents differ by {worst.max():.1e} at most, {worst.mean():.1e} on average")
            if worst.mean() > 1e-3:
                fail(policy)


if __name__ == "__main__":
    check_goldens(sys.argv[1])
    if len(sys.argv) > 2:
        check_engine(sys.argv[1], sys.argv[2], sys.argv[3])
