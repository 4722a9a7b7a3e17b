# SPDX-License-Identifier: Apache-2.0
"""Stage 2, the text encoder and the denoiser:

    torchrun --standalone --nproc_per_node=2 tools/train/dit.py --out DIR --tokenizer tokenizer.model --seconds 500
        [--from DIR0 --from-tokenizer OLD] [--to .5]

Flow matching with teacher forcing on encoded clips. Every other step the context holds the model's own estimates of the
step before, for about half of the chunks, so that it learns to go on from what it makes. The whole step is one CUDA
graph. Needs DIR/ae.safetensors; writes DIR/t5.safetensors and DIR/dit_base_{1,2}.safetensors.
"""

from __future__ import annotations

import argparse
import json
import os

import torch
from torch import Tensor, nn

import latents
import nets
from nets import CHUNK_LATENTS, LATENT, TEXT_LENGTH
from runtime import CUDA, DEVICE, RANK, WORLD, Captured, FlatParameters, Optimizer, Plan, autocast, elapsed, finish, fit, \
    load_dit, load_weights, log, save_dit, save_weights, start
from text import Tokenizer, map_embeddings

CHUNKS = 7
CAPTION_DROP = .08


def per_chunk(s: Tensor) -> Tensor:
    """[B, N] to the shape of latents."""
    return s[..., None, None, None, None]


def matrices(dit: nets.WanDiT) -> list[nn.Parameter]:
    """The parameters that Muon trains."""
    return [p for p in dit.blocks.parameters() if p.dim() == 2]


def compile_blocks(dit: nets.WanDiT) -> None:
    if not CUDA:
        return
    torch._dynamo.config.recompile_limit = 64  # the blocks share one code object; each use of it is a variant
    for block in dit.blocks:
        block.compile(dynamic=False)


def plain_blocks(*models: nets.WanDiT) -> None:
    """Takes the compiled code out again."""
    for model in models:
        for block in model.blocks:
            block._compiled_call_impl = None


class Batch:
    """Static inputs of a step and how they are filled."""

    def __init__(self, data: latents.Latents, size: int) -> None:
        self.data, self.size = data, size
        chunk = (size, CHUNKS, CHUNK_LATENTS)
        self.z = torch.zeros(*chunk, *LATENT, device=DEVICE)
        self.focus = torch.zeros(*chunk, 1, *LATENT[1:], device=DEVICE)
        self.ids = torch.zeros(size, 3, TEXT_LENGTH, dtype=torch.long, device=DEVICE)
        self.scene_of_chunk = torch.zeros(size, CHUNKS, dtype=torch.long, device=DEVICE)
        self.weight = torch.ones(size, CHUNKS, device=DEVICE)
        self.row = torch.arange(size, device=DEVICE)[:, None]

    def draw(self, drop: float) -> None:
        """Another random batch, each scene with one of its captions or (`drop`) none."""
        d = self.data
        at = torch.randint(len(d), (self.size,), device=DEVICE)
        phrasing = torch.randint(d.ids.shape[2], (self.size, 3), device=DEVICE)
        ids = d.ids[at[:, None], torch.arange(3, device=DEVICE), phrasing].long()
        self.ids.copy_(ids * (torch.rand(self.size, 1, 1, device=DEVICE) >= drop))
        self.z.copy_(d.z[at])
        self.focus.copy_(d.focus[at])
        self.scene_of_chunk.copy_(d.scene_of_chunk[at])
        self.weight.copy_(d.weight[at])


def draw_levels(like: Tensor) -> Tensor:
    """Noise levels [B, N]: mostly high, as the sampler's are, sometimes pure noise."""
    u = torch.rand_like(like)
    shift = torch.where(torch.rand_like(u) < .7, 5., 2.)
    level = (shift * u / (1 + (shift - 1) * u)).clamp(.005, 1)
    return torch.where(torch.rand_like(u) < .1, torch.ones_like(u), level)


class DenoiserJob:
    """One step of teacher forcing."""

    def __init__(self, t5: nets.T5Encoder, dit: nets.WanDiT, data: latents.Latents, batch: int) -> None:
        self.t5, self.dit, self.batch = t5, dit, Batch(data, batch)
        self.flat = FlatParameters([dit, t5], matrices(dit))
        self.stats = torch.zeros(4, device=DEVICE)
        self.table = nets.rope_table(CHUNKS * CHUNK_LATENTS, dit.head_dim, DEVICE)
        self.context, self.own = torch.zeros_like(self.batch.z), torch.zeros_like(self.batch.z)
        self.level = torch.ones(batch, CHUNKS, device=DEVICE)
        compile_blocks(dit)
        self.batch.draw(0.)
        self.step = Captured(self._body, "dit", lambda: plain_blocks(dit))
        self.step.prepare()
        self.stats.zero_()

    def load(self, step: int) -> None:
        if step % 2 == 0:
            self.batch.draw(CAPTION_DROP)
            self.context.copy_(self.batch.z)
        else:
            use = (self.level < .97) & (torch.rand_like(self.level) < .55)
            self.context.copy_(torch.where(per_chunk(use), self.own, self.batch.z))

    def run(self) -> None:
        self.step()

    def _body(self) -> None:
        b, z = self.batch, self.batch.z
        self.flat.grad.zero_()
        level = draw_levels(b.weight)
        soil = .25 * torch.rand_like(level).pow(2) * (torch.rand_like(level[:, :1]) < .75)
        clean = (1 - per_chunk(soil)) * self.context + per_chunk(soil) * torch.randn_like(z)
        noise = torch.randn_like(z)
        noisy = (1 - per_chunk(level)) * z + per_chunk(level) * noise
        with autocast():
            text = self.dit.text_embedding(self.t5(b.ids.flatten(0, 1))).unflatten(0, (-1, 3))
            v = self.dit(clean, noisy, level * 1000, text[b.row, b.scene_of_chunk], self.table).float()
        error = ((v - (noise - z)).pow(2) * (1 + 3 * b.focus)).mean((2, 3, 4, 5))
        loss = (error * b.weight).sum() / b.weight.sum()
        loss.backward()
        self.own.copy_((noisy - per_chunk(level) * v).detach())
        self.level.copy_(level)
        first, last = error[:, 0].mean(), error[:, -1].mean()
        self.stats += torch.stack([loss, first, last, (error * (level == 1)).sum() / (level == 1).sum().clamp(min=1)]).detach()


def restore(t5: nets.T5Encoder, dit: nets.WanDiT, directory: str, tag: str, old: Tokenizer | None, new: Tokenizer) -> None:
    """Loads weights; where their tokenizer was another (`old`), maps the embeddings."""
    dit.load_state_dict(load_dit(directory, tag))
    weights = load_weights(os.path.join(directory, "t5.safetensors"))
    name = "token_embedding.weight"
    if old is not None:
        weights[name] = map_embeddings(weights[name], old, new)
    t5.load_state_dict(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--from", dest="origin", help="directory of weights to go on from")
    parser.add_argument("--from-tokenizer", help="their tokenizer, where it is another")
    parser.add_argument("--from-tag", default="base")
    parser.add_argument("--seconds", type=float, required=True, help="wall time until training ends, all included")
    parser.add_argument("--to", type=float, default=1., help="progress of the schedule at the end of this call")
    parser.add_argument("--steps", type=int, help="end this call after so many steps, whatever the time")
    parser.add_argument("--clips", type=int, default=4500, help="per process")
    parser.add_argument("--batch", type=int, default=16, help="clips per process and step")
    parser.add_argument("--muon-rate", type=float, default=1.6e-3)
    parser.add_argument("--adam-rate", type=float, default=7e-4)
    parser.add_argument("--layers", type=int, default=10)
    args = parser.parse_args()
    start(2)
    tokenizer = Tokenizer(args.tokenizer)
    ae = nets.autoencoder(load_weights(os.path.join(args.out, "ae.safetensors")), DEVICE)
    data = latents.load_or_build(os.path.join(args.out, "latents"), ae, tokenizer, args.clips, 1000)
    del ae
    torch.manual_seed(5)
    t5, dit = nets.build(len(tokenizer), DEVICE, args.layers)
    if args.origin:
        old = Tokenizer(args.from_tokenizer) if args.from_tokenizer else None
        restore(t5, dit, args.origin, args.from_tag, old, tokenizer)
    torch.manual_seed(15 + RANK)
    job = DenoiserJob(t5, dit, data, args.batch)

    def export() -> None:
        save_weights(os.path.join(args.out, "t5.safetensors"), t5.state_dict())
        save_dit(args.out, dit.state_dict(), "base")

    plan = Plan("dit", args.out, args.seconds - elapsed(), args.to, args.steps, hold=.45, ema=.998, check=50 if CUDA else 2,
                guess=.09, export=export)
    report = fit(job, Optimizer(job.flat, args.adam_rate, args.muon_rate), plan)
    if RANK == 0:
        report |= dict(clips=len(data) * WORLD, batch=args.batch * WORLD)
        log(report)
        with open(os.path.join(args.out, "dit.json"), "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)
    finish()


if __name__ == "__main__":
    main()
