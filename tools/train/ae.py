# SPDX-License-Identifier: Apache-2.0
"""Stage 1, the autoencoder:

    torchrun --standalone --nproc_per_node=2 tools/train/ae.py --out DIR --seconds 500 [--from ae.safetensors]

Trains TAEHV on rendered clips: L1 at three scales, gradients and squares, heavier on the subject and on falling rain
and snow, and the PSNR of every clip and of its subject, with noise on the latents and limits on their mean and variance.
Colours are drawn at random for part of the clips, so that it keeps any colour. With --thaw the decoder waits until the
encoder fits it: for weights whose encoder was lost or is another's. --decoder makes it wider than the weights that it goes
on from; it computes the same at first. Writes DIR/ae.safetensors, DIR/ae.json and DIR/ae.png (left rendered, right back
from latents).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random

import torch
import torch.nn.functional as F
from torch import Tensor

import clips as clip_scripts
import pictures
import world
from attributes import SUBJECTS
from nets import DECODER, TAEHV, widen
from runtime import CUDA, DEVICE, RANK, Captured, FlatParameters, Optimizer, Plan, autocast, elapsed, \
    finish, fit, load_weights, log, save_weights, start

POOL_FRAMES, CLIP_FRAMES = 24, 16
ANY_COLOUR = .35  # share of the clips whose colour is drawn at random
SUBJECT = .6  # pixels covered more than this are its
NOISE = .05  # on latents, at most
PSNR_SHARE, SUBJECT_SHARE = .01, .02  # of a clip's logarithmic square error in the loss, and of its subject's


def square_errors(square: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """Of each clip, whole and where `on`: square [N, F, 3, H, W], on [N, F, 1, H, W] of 0 and 1 -> [N], [N]"""
    whole = square.mean((1, 2, 3, 4))
    return whole, (square * on).sum((1, 2, 3, 4)) / (3 * on.sum((1, 2, 3, 4))).clamp(min=1)


def render_pool(count: int, seed: int, batch: int) -> Tensor:
    """Stretches of clips, [count, POOL_FRAMES, 4, H, W] uint8: RGB and the weight of the loss."""
    out = torch.empty(count, POOL_FRAMES, 4, world.HEIGHT, world.WIDTH, dtype=torch.uint8, device=DEVICE)
    for i in range(0, count, batch):
        rng = random.Random(seed + i)
        script = clip_scripts.make(batch, seed + i, skip_probability=0., paraphrases=1)
        state = world.resolve(world.scenes_to(script.scenes, DEVICE), script.switch.to(DEVICE), script.time.to(DEVICE))
        first = rng.randrange(0, script.time.shape[1] - POOL_FRAMES)
        state = state.frames(first, POOL_FRAMES)
        other = torch.rand(batch, 1, 3, device=DEVICE)
        chosen = torch.rand(batch, 1, 1, device=DEVICE) < ANY_COLOUR
        state.colour = torch.where(chosen, other.expand_as(state.colour), state.colour)
        picture, cover, particles = world.render(state, script.seeds.to(DEVICE))
        weight = torch.maximum(cover, .4 * particles).unsqueeze(2)
        out[i:i + batch] = (torch.cat([picture, weight], 2) * 255).round().byte()[:count - i]
    return out


class AutoencoderJob:
    """One step: encode, add noise, decode, compare."""

    def __init__(self, ae: TAEHV, pool: Tensor, batch: int, thaw: int = 0, eager: bool = False) -> None:
        self.ae, self.pool, self.batch, self.thaw, self.steps = ae, pool, batch, thaw, 0
        self.flat = FlatParameters([ae.encoder, ae.decoder])
        self.decoder_grad = self.flat.grad[sum(p.numel() for p in ae.encoder.parameters()):]
        self.stats = torch.zeros(4, device=DEVICE)
        self.input = torch.zeros(batch, CLIP_FRAMES, *pool.shape[2:], dtype=torch.uint8, device=DEVICE)
        self.encode, self.decode = ae.encode, ae.decode
        if CUDA and not eager:
            self.encode, self.decode = (torch.compile(f, dynamic=False) for f in (ae.encode, ae.decode))
        self.step = Captured(self._body, "ae", self._plain)
        self.step.prepare()
        self.stats.zero_()

    def _plain(self) -> None:
        self.encode, self.decode = self.ae.encode, self.ae.decode

    def load(self, step: int) -> None:
        at = torch.randint(len(self.pool), (self.batch,), device=DEVICE)
        first = random.randrange(POOL_FRAMES - CLIP_FRAMES + 1)
        x = self.pool[at, first:first + CLIP_FRAMES]
        self.input.copy_(x.flip(-1) if random.random() < .5 else x)

    def run(self) -> None:
        self.step()
        if self.steps < self.thaw:
            self.decoder_grad.zero_()
        self.steps += 1

    def _body(self) -> None:
        self.flat.grad.zero_()
        x = self.input.float() / 255
        x, cover = x[:, :, :3], x[:, :, 3:]
        with autocast():
            z = self.encode(x).float()
        mean, var = z.mean((0, 1, 3, 4)), z.var((0, 1, 3, 4))
        limits = F.relu(mean.abs() - .3).pow(2).mean() + F.relu((var + 1e-4).log().abs() - .4).pow(2).mean()
        z = z + NOISE * torch.rand(self.batch, 1, 1, 1, 1, device=DEVICE) * torch.randn_like(z)
        with autocast():
            y = self.decode(z).float()
        on = (cover > SUBJECT).float()
        whole, subject = square_errors((y - x).pow(2), on)
        there = on.sum((1, 2, 3, 4)) > 200
        psnr_loss = (PSNR_SHARE * (whole + 1e-6).log() + SUBJECT_SHARE * (subject + 1e-5).log() * there).mean()
        d, weight = (y - x).flatten(0, 1), (1 + 5 * cover).flatten(0, 1)
        dw, square = d * weight, d.pow(2)
        scales = F.avg_pool2d(dw, 2).abs().mean() + F.avg_pool2d(dw, 4).abs().mean()
        gradient = ((d[..., 1:] - d[..., :-1]).abs() * weight[..., 1:]).mean() \
            + ((d[..., 1:, :] - d[..., :-1, :]).abs() * weight[..., 1:, :]).mean()
        loss = dw.abs().mean() + .5 * scales + .7 * gradient + 6 * (square * weight).mean() + .03 * limits
        (loss + psnr_loss).backward()
        psnr = -10 * torch.log10(square.mean((1, 2, 3))).mean()
        self.stats += torch.stack([loss, psnr, gradient, limits]).detach()


@torch.no_grad()
def test(ae: TAEHV, count: int, seed: int = 777777, batch: int = 4) -> tuple[dict[str, float], Tensor]:
    """PSNR over whole unseen clips, from zero memory, and on subject pixels; some pictures [n, 2, 3, H, W]."""
    script = clip_scripts.make(count, seed, skip_probability=0., paraphrases=1)
    whole, subject, shown = [], [], []
    by_subject: dict[str, list[float]] = {}
    for i in range(0, count, batch):
        s = slice(i, i + batch)
        scenes = {k: v[s].to(DEVICE) for k, v in script.scenes.items()}
        x, cover, _ = world.render(world.resolve(scenes, script.switch[s].to(DEVICE), script.time[s].to(DEVICE)),
                                   script.seeds[s].to(DEVICE))
        with autocast():
            y = ae.decode(ae.encode(x)).float().clamp(0, 1)
        both = square_errors((y - x).pow(2), (cover > SUBJECT).float().unsqueeze(2))
        for b, (all_of_it, part) in enumerate(zip(*both, strict=True)):
            whole.append(-10 * math.log10(all_of_it.item()))
            subject.append(-10 * math.log10(part.item() + 1e-9))
            by_subject.setdefault(SUBJECTS[int(scenes["sub"][b, 0])], []).append(subject[-1])
        shown.append(torch.stack([x[:, 40], y[:, 40]], 1))
    scores = dict(n=count, psnr_db=sum(whole) / count, psnr_min_db=min(whole), psnr_subject_db=sum(subject) / count)
    scores |= {f"psnr_subject_{name}_db": sum(v) / len(v) for name, v in by_subject.items()}
    return {k: round(v, 2) for k, v in scores.items()}, torch.cat(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--from", dest="origin", nargs="+", help="weights to go on from, in one or more files")
    parser.add_argument("--decoder", type=int, nargs=4, default=DECODER, metavar="CHANNELS", help="of its levels")
    parser.add_argument("--seconds", type=float, required=True, help="wall time until training ends, all included")
    parser.add_argument("--to", type=float, default=1., help="progress of the schedule at the end of this call")
    parser.add_argument("--steps", type=int, help="end this call after so many steps, whatever the time")
    parser.add_argument("--clips", type=int, default=4000, help="per process")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--thaw", type=int, default=0, help="steps of this call before the decoder learns")
    parser.add_argument("--eager", action="store_true", help="compile nothing, which pays in calls of a minute or two")
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--test", type=int, default=48, help="clips to score at the end")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    start(1)
    random.seed(1 + RANK)
    ae = TAEHV(dec=tuple(args.decoder)).to(DEVICE)
    if args.origin:
        widen(load_weights(*args.origin), ae)
    pool = render_pool(args.clips, 90000 + 1000000 * RANK, min(48, args.clips))
    log("pool", tuple(pool.shape))
    job = AutoencoderJob(ae, pool, args.batch, args.thaw, args.eager)
    path = os.path.join(args.out, "ae.safetensors")
    plan = Plan("ae", args.out, args.seconds - elapsed(), args.to, args.steps, hold=.2, ema=.998,
                check=100 if CUDA else 1, guess=.03, export=lambda: save_weights(path, ae.state_dict()))
    report = fit(job, Optimizer(job.flat, args.rate, betas=(.9, .985), decay=.005), plan)
    if RANK == 0:
        scores, shown = test(ae.eval(), args.test)
        report |= scores
        log("after", scores)
        with open(os.path.join(args.out, "ae.json"), "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)
        pictures.save(os.path.join(args.out, "ae.png"), pictures.sheet(shown[:16]))
    finish()


if __name__ == "__main__":
    main()
