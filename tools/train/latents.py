# SPDX-License-Identifier: Apache-2.0
"""Training data of the denoiser: clips rendered and encoded on this process's device, kept there whole."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

import clips as clip_scripts
import world
from nets import CHUNK_LATENTS, LATENT, TAEHV, TEXT_LENGTH
from runtime import DEVICE, RANK, autocast, log
from text import Tokenizer


@dataclass
class Latents:
    """N encoded clips, all on the device."""

    z: Tensor  # [N, 7, 3, 16, 18, 32] bfloat16
    focus: Tensor  # [N, 7, 3, 1, 18, 32] bfloat16: how much of a latent the subject covers
    ids: Tensor  # [N, 3, paraphrases, 64] int16
    scene_of_chunk: Tensor  # [N, 7]
    weight: Tensor  # [N, 7]

    def __len__(self) -> int:
        return self.z.shape[0]


@torch.no_grad()
def build(ae: TAEHV, tokenizer: Tokenizer, count: int, seed: int, batch: int = 24) -> Latents:
    """Renders and encodes `count` clips."""
    began = time.time()
    script = clip_scripts.make(count, seed)
    flat = [text for clip in script.captions for scene in clip for text in scene]
    ids = tokenizer.encode(flat).view(count, 3, -1, TEXT_LENGTH)
    log(f"{count} scripts {time.time() - began:.1f} s, longest caption {int((ids != 0).sum(-1).max())} pieces")
    began = time.time()
    per_clip = clip_scripts.CHUNKS * CHUNK_LATENTS
    z = torch.empty(count, per_clip, *LATENT, dtype=torch.bfloat16, device=DEVICE)
    focus = torch.empty(count, per_clip, *LATENT[1:], dtype=torch.bfloat16, device=DEVICE)
    for i in range(0, count, batch):
        s = slice(i, min(i + batch, count))
        scenes = {k: v[s].to(DEVICE) for k, v in script.scenes.items()}
        state = world.resolve(scenes, script.switch[s].to(DEVICE), script.time[s].to(DEVICE))
        picture, cover, _ = world.render(state, script.seeds[s].to(DEVICE))
        cover = cover.view(-1, per_clip, 4, world.HEIGHT, world.WIDTH).amax(2)
        focus[s] = F.max_pool2d(F.avg_pool2d(cover, 8), 3, 1, 1).to(torch.bfloat16)
        with autocast():
            z[s] = ae.encode(picture).to(torch.bfloat16)
    some = z[:500].float()
    log(f"{count} clips encoded in {time.time() - began:.1f} s; latent mean {some.mean():.3f} std {some.std():.3f}")
    shape = (count, clip_scripts.CHUNKS, CHUNK_LATENTS)
    return Latents(z.view(*shape, *LATENT), focus.view(*shape, 1, *LATENT[1:]), ids.to(DEVICE),
                   script.scene_of_chunk.to(DEVICE), script.weight.to(DEVICE))


def load_or_build(path: str, ae: TAEHV, tokenizer: Tokenizer, count: int, seed: int) -> Latents:
    """As `build`, kept in a file per process for the stages that follow."""
    path = f"{path}.r{RANK}.pt"
    if os.path.exists(path):
        return Latents(**torch.load(path, map_location=DEVICE, weights_only=True))
    data = build(ae, tokenizer, count, seed + 100000 * RANK)
    torch.save({f.name: getattr(data, f.name) for f in fields(data)}, path + ".tmp")
    os.replace(path + ".tmp", path)
    return data
