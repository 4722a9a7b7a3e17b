# SPDX-License-Identifier: Apache-2.0
"""Stage 6, the files that ship:

    python3 tools/train/export.py DIR TAG TOKENIZER RESULT --command "..." --seed 1000

RESULT gets decoder, dit_base_1, dit_base_2 and t5_base (bf16 safetensors with provenance in their metadata, each under 16 MiB),
tokenizer.model, suggestions.json, and golden_rollout.safetensors: ten chunks with a prompt switch, computed by these very
weights in float32 on the CPU, which an engine must reproduce.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess

import torch
from safetensors.torch import save_file
from torch import Tensor

import captions
import nets
from nets import CHUNK_LATENTS, LATENT
from rollout import RENOISE_ABOVE, STEPS, Rollout, decode
from runtime import load_dit, load_weights, save_dit, save_weights
from text import EOS, Tokenizer

LIMIT = 16 << 20
GOLDEN_CHUNKS, GOLDEN_SEED = 10, 11
GOLDEN_PROMPTS = [(0, "a red hot-air balloon drifts left over snowy mountains at sunset while snow falls"),
                  (5, "a yellow paper plane glides right over green hills at noon")]
GOLDEN_FRAMES = list(range(0, 120, 14))
LAYOUT = ("noise [chunks, 4 draws (initial, then before steps 2, 3, 4), 3 frames, 16, 18, 32]; latents [frames, 16, 18, 32] "
          "as the DiT gives them; frames [n, 3, 144, 256] u8 RGB, round(255 * clamp(x)), of the frame numbers in "
          "frames.index; context = encoder output, real tokens only")


@torch.no_grad()
def golden(directory: str) -> dict[str, Tensor]:
    """Inputs and results of the reference rollout, from the files in `directory`."""
    torch.manual_seed(GOLDEN_SEED)
    cpu = torch.device("cpu")
    tokenizer = Tokenizer(os.path.join(directory, "tokenizer.model"))
    t5, dit = nets.build(len(tokenizer), cpu)
    t5.load_state_dict(load_weights(os.path.join(directory, "t5_base.safetensors")))
    dit.load_state_dict(load_dit(directory, "base"))
    ae = nets.autoencoder(load_weights(os.path.join(directory, "decoder.safetensors")))
    noise = torch.randn(GOLDEN_CHUNKS, len(STEPS), CHUNK_LATENTS, *LATENT)
    out: dict[str, Tensor] = dict(noise=noise)
    draws = iter(noise[0])
    stream, latents, context = Rollout(dit, 1, cpu, noise=lambda: next(draws)[None]), [], torch.empty(0)
    prompts = dict(GOLDEN_PROMPTS)
    for c in range(GOLDEN_CHUNKS):
        if c in prompts:
            ids = tokenizer.encode([prompts[c]]).long()
            real = int((ids == EOS).nonzero()[0, 1]) + 1
            encoded = t5(ids)
            out[f"prompt{c}.ids"], out[f"prompt{c}.context"] = ids[0, :real].int(), encoded[0, :real].clone()
            context = dit.text_embedding(encoded)
        draws = iter(noise[c])  # step i's lies at i, whether earlier steps drew theirs or not
        latents.append(stream.chunk(context)[0])
    out["latents"] = torch.cat(latents)
    frames = decode(ae, out["latents"][None], amp=False)[0]
    out["frames"] = (frames[GOLDEN_FRAMES] * 255).round().byte()
    out["frames.index"] = torch.tensor(GOLDEN_FRAMES, dtype=torch.int32)
    return out


def commit() -> str:
    here = os.path.dirname(os.path.abspath(__file__))
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("tag")
    parser.add_argument("tokenizer")
    parser.add_argument("result")
    parser.add_argument("--command", required=True, help="how the weights were made")
    parser.add_argument("--commit", default=None, help="of the code that made them; default: this checkout's")
    parser.add_argument("--seed", default="1000", help="of the training data")
    args = parser.parse_args()
    os.makedirs(args.result, exist_ok=True)
    metadata = dict(format="pt", licence="Apache-2.0", commit=args.commit or commit(), command=args.command,
                    data_seed=args.seed, made_by="tools/train of lightforced, from procedurally rendered clips only")
    at = lambda name: os.path.join(args.result, name)  # noqa: E731
    autoencoder = load_weights(os.path.join(args.directory, "ae.safetensors"))
    save_weights(at("decoder.safetensors"), {k: v for k, v in autoencoder.items() if k.startswith("decoder.")}, metadata)
    save_dit(args.result, load_dit(args.directory, args.tag), "base", metadata)
    save_weights(at("t5_base.safetensors"), load_weights(os.path.join(args.directory, "t5.safetensors")), metadata)
    shutil.copyfile(args.tokenizer, at("tokenizer.model"))
    with open(at("suggestions.json"), "w", encoding="utf-8") as f:
        json.dump(captions.suggestions(), f, indent=1)
    kind = dict(kind="demo model rollout, float32, dense, KV-cached, prompt switches without recache",
                prompts=json.dumps(GOLDEN_PROMPTS), seed=str(GOLDEN_SEED), layout=LAYOUT, steps=json.dumps(STEPS),
                renoise_above=str(RENOISE_ABOVE), chunks=str(GOLDEN_CHUNKS))
    save_file(golden(args.result), at("golden_rollout.safetensors"), kind)
    for name in os.listdir(args.result):
        if os.path.getsize(at(name)) >= LIMIT:
            raise SystemExit(f"{name} is not under 16 MiB; split it into more files")


if __name__ == "__main__":
    main()
