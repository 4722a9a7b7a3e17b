# SPDX-License-Identifier: Apache-2.0
"""The judge: a small network that reads a scene's attributes off two pictures a quarter of a second apart.

It learns from rendered pictures only (trained and held-out combinations alike), blurred and noised at random, so that it
judges what is shown and not how this or that model shows it. `train` makes one; `Judge.right` compares with prompts.
"""

from __future__ import annotations

import random
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attributes
import world
from attributes import COUNT, NAMES, Attributes
from runtime import DEVICE, autocast, log

HEADS = ("tod", "ter", "wea", "sub", "col", "dir")
GAP = 4  # frames between the two pictures


def _small(frames: Tensor) -> Tensor:
    """[N, 2, 3, H, W] -> [N, 6, H / 2, W / 2]"""
    return F.avg_pool2d(frames.flatten(1, 2), 2)


class Judge(nn.Module):
    """Pairs of pictures [N, 2, 3, 144, 256] in 0..1 to scores per attribute."""

    def __init__(self) -> None:
        super().__init__()

        def layer(i: int, o: int, stride: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(i, o, 3, stride, 1), nn.GroupNorm(8, o), nn.GELU())

        self.net = nn.Sequential(layer(9, 48, 2), layer(48, 96, 1), layer(96, 128, 2), layer(128, 192, 2), layer(192, 192, 1))
        self.head = nn.Linear(192 * (2 + 15), sum(COUNT[k] for k in HEADS))

    def forward(self, small: Tensor) -> dict[str, Tensor]:
        h = self.net(torch.cat([small - .5, (small[:, 3:] - small[:, :3]) * 4], 1))
        grid = F.adaptive_avg_pool2d(h, (3, 5)).flatten(1)
        out = self.head(torch.cat([h.mean((2, 3)), h.amax((2, 3)), grid], 1)).float()
        return dict(zip(HEADS, out.split([COUNT[k] for k in HEADS], 1), strict=True))

    @torch.no_grad()
    def right_pair(self, pairs: Tensor, scenes: list[Attributes]) -> dict[str, Tensor]:
        """Which attributes [N] the pairs of pictures [N, 2, 3, H, W], GAP frames apart, show as asked."""
        out = self(_small(pairs.to(DEVICE)))
        return {k: out[k].argmax(1) == torch.tensor([s[k] for s in scenes], device=DEVICE) for k in HEADS}

    def right(self, video: Tensor, first: int, scenes: list[Attributes]) -> dict[str, Tensor]:
        """The same for the pictures `first` and `first + GAP` of videos [N, F, 3, H, W] in 0..255."""
        return self.right_pair(video[:, [first, first + GAP]].float() / 255, scenes)


def render_scenes(scenes: list[Attributes], seed: int, frames: range, batch: int = 24) -> Tensor:
    """Pictures of one unchanging scene each, `frames` after a random moment: [N, len(frames), 3, H, W]."""
    rng, out = torch.Generator().manual_seed(seed), []
    for i in range(0, len(scenes), batch):
        part = scenes[i:i + batch]
        index = {k: torch.tensor([[s[k]] * 3 for s in part], device=DEVICE) for k in NAMES}
        start = torch.randint(0, 900, (len(part), 1), generator=rng)
        clock = (start + torch.tensor(list(frames))).float().to(DEVICE)
        never = torch.full((len(part), 2), 1e7, device=DEVICE)
        seeds = torch.rand(len(part), world.SEEDS, generator=rng).to(DEVICE)
        out.append(world.render(world.resolve(index, never, clock), seeds)[0])
    return torch.cat(out)


def _blur_and_noise(x: Tensor) -> Tensor:
    soft = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    a = torch.rand(len(x), 1, 1, 1, device=x.device)
    return x + a * (soft - x) + .04 * torch.rand_like(a) * torch.randn_like(x)


def train(count: int, seconds: float, batch: int = 256, seed: int = 0) -> tuple[Judge, dict[str, float]]:
    """A judge and its accuracy on rendered pictures that it has not seen."""
    rng, began = random.Random(seed), time.time()
    scenes = [attributes.sample(rng, held_out=i % 3 == 0) for i in range(count)]
    pairs = torch.cat([_small(render_scenes(scenes[i:i + 96], seed + i, range(0, GAP + 1, GAP), 96)).half()
                       for i in range(0, count, 96)])
    labels = {k: torch.tensor([s[k] for s in scenes], device=DEVICE) for k in HEADS}
    log(f"judge: {count} pairs in {time.time() - began:.1f} s")
    torch.manual_seed(seed)
    judge, held = Judge().to(DEVICE), max(1, count // 10)
    opt = torch.optim.AdamW(judge.parameters(), lr=1e-3, weight_decay=.05)
    began, steps = time.time(), 0
    while (used := (time.time() - began) / seconds) < 1:
        for group in opt.param_groups:
            group["lr"] = 1.5e-3 * max(.01, 1 - used)
        at = torch.randint(held, count, (batch,), device=DEVICE)
        with autocast():
            out = judge(_blur_and_noise(pairs[at].float()))
        loss = sum(F.cross_entropy(out[k], labels[k][at]) for k in HEADS)
        opt.zero_grad()
        loss.backward()
        opt.step()
        steps += 1
    judge.eval()
    with torch.no_grad():
        out = [judge(pairs[i:min(i + 256, held)].float()) for i in range(0, held, 256)]
    accuracy = {k: (torch.cat([o[k] for o in out]).argmax(1) == labels[k][:held]).float().mean().item() for k in HEADS}
    log(f"judge: {steps} steps, on unseen renderings", {k: round(v, 4) for k, v in accuracy.items()})
    return judge, accuracy
