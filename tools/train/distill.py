# SPDX-License-Identifier: Apache-2.0
"""Stage 3, four steps as good as many:

    torchrun --standalone --nproc_per_node=2 tools/train/distill.py --out DIR --tokenizer tokenizer.model --seconds 250

The student learns, at the sampler's four noise levels, where the frozen stage-2 model ends when it solves the rest of
the way in eight steps. Half of the steps start from noised clips; the other half from the very states that the student
passes through in its own rollouts, over the context that it made itself, so that it learns on what it will meet.
With --guidance the end point is that of the teacher pushed away from what it would do without words, which makes it sharper
and surer of the prompt; `auto` takes the strength at which first chunks are as sharp as rendered ones. With --sparse two of
three batches attend as the engine's policy of that name does, in their rollouts and in the student's step; the teacher
stays dense.
Reads DIR/ae, DIR/t5 and DIR/dit_base; writes DIR/dit_distilled_{1,2}.safetensors. The text encoder stays as it is.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os

import torch

import latents
import nets
from dit import CHUNKS, Batch, compile_blocks, matrices, per_chunk, plain_blocks
from nets import CHUNK_LATENTS, TEXT_LENGTH
from rollout import STEPS, Rollout
from runtime import CUDA, DEVICE, RANK, WORLD, Captured, FlatParameters, Optimizer, Plan, autocast, elapsed, finish, fit, \
    load_dit, load_weights, log, save_dit, start
from sparse import Sparse, parse
from text import Tokenizer

SUBSTEPS = 6
SPACING = 3.  # of the teacher's steps: finer towards the clean end
LEVEL_SHARE = (.3, .15, .2, .35)  # how often each of the four levels is trained
GUIDANCE = (1., 1.25, 1.5, 1.75, 2., 2.5, 3.)  # that `auto` tries
CYCLE = 4  # steps per batch: the first half on-policy, the second half from noised clips


class DistillJob:
    """One step: the teacher's end points for a batch of states, and the student's regression on them."""

    def __init__(self, t5: nets.T5Encoder, dit: nets.WanDiT, data: latents.Latents, batch: int,
                 guidance: float | None = 1., sparse: Sparse | None = None) -> None:
        self.t5, self.dit, self.batch = t5.requires_grad_(False), dit, Batch(data, batch)
        self.guidance, self.sparse, self.cycle = guidance or 1., sparse, 0
        self.teacher = copy.deepcopy(dit).requires_grad_(False)
        self.flat = FlatParameters([dit], matrices(dit))
        self.stats = torch.zeros(6, device=DEVICE)
        self.levels = torch.tensor([t / 1000 for t in STEPS], device=DEVICE)
        self.share = torch.tensor(LEVEL_SHARE, device=DEVICE)
        self.table = nets.rope_table(CHUNKS * CHUNK_LATENTS, dit.head_dim, DEVICE)
        self.text = torch.zeros(batch, 3, TEXT_LENGTH, dit.dim, device=DEVICE)
        self.which = torch.zeros(batch, CHUNKS, dtype=torch.long, device=DEVICE)
        self.context, self.state = torch.zeros_like(self.batch.z), torch.zeros_like(self.batch.z)
        self.focus, self.weight = torch.zeros_like(self.batch.focus), torch.ones_like(self.batch.weight)
        self.passed = torch.zeros(len(STEPS), *self.batch.z.shape, device=DEVICE)
        self.made = torch.zeros_like(self.batch.z)
        compile_blocks(self.teacher)
        self._draw()
        if guidance is None:
            self._choose_guidance()
        modes = [None] if sparse is None else [sparse, None]
        self.rollouts = [Captured(functools.partial(self._rollout, mode), "rollout") for mode in modes]
        self.steps = [Captured(functools.partial(self._body, mode), "distill", lambda: plain_blocks(dit, self.teacher))
                      for mode in modes]
        for rollout in self.rollouts:
            rollout.prepare()
        self.load(0)
        for mode, step in zip(modes, self.steps, strict=True):
            if mode is None:  # masks are cheap to launch and dear to compile
                compile_blocks(dit)
            step.prepare()
        self.stats.zero_()

    def mode(self) -> int:
        """Which of the ways of attending this cycle trains: two of three are sparse."""
        return int(len(self.steps) > 1 and self.cycle % 3 == 2)

    @torch.no_grad()
    def _draw(self) -> None:
        self.batch.draw(.03)
        with autocast():
            self.text.copy_(self.t5(self.batch.ids.flatten(0, 1)).unflatten(0, (-1, 3)))

    @torch.no_grad()
    def _choose_guidance(self) -> None:
        """The strength whose first chunks have the horizontal gradients of the encoded ones."""
        def edges(x: torch.Tensor) -> float:
            return (x[..., 1:] - x[..., :-1]).abs().mean().item()

        b = self.batch
        self.context.copy_(b.z)
        self.state.normal_()
        with autocast():
            text = self.teacher.text_embedding(self.text)[b.row, b.scene_of_chunk]
            found = {}
            for self.guidance in GUIDANCE:
                found[self.guidance] = edges(self._end_point(torch.ones_like(b.weight), text)[:, 0]) / edges(b.z[:, 0])
        self.guidance = min(found, key=lambda g: abs(found[g] - 1))
        log("guidance", self.guidance, {g: round(v, 3) for g, v in found.items()})

    @torch.no_grad()
    def _rollout(self, mask_of: Sparse | None) -> None:
        """The student makes the batch's clips; keeps the inputs of its steps and what comes out."""
        b = self.batch
        with autocast():
            text = self.dit.text_embedding(self.text)[b.row, b.scene_of_chunk]
            stream = Rollout(self.dit, b.size, DEVICE, mask_of)
            for c in range(CHUNKS):
                self.made[:, c] = stream.chunk(text[:, c], seen=functools.partial(self._keep, c))

    def _keep(self, chunk: int, step: int, state: torch.Tensor) -> None:
        self.passed[step, :, chunk].copy_(state)

    @torch.no_grad()
    def load(self, step: int) -> None:
        b = self.batch
        if step % CYCLE == 0:
            self.cycle = step // CYCLE
            self._draw()
            self.rollouts[self.mode()]()
        self.which.copy_(torch.multinomial(self.share, b.size * CHUNKS, replacement=True).view_as(self.which))
        if step % CYCLE < CYCLE // 2:
            self.context.copy_(self.made)
            at = self.which[None, ..., None, None, None, None].expand(1, *self.made.shape)
            self.state.copy_(self.passed.gather(0, at)[0])
            self.focus.fill_(.25)
            self.weight.fill_(1.)
            return
        level = per_chunk(self.levels[self.which])
        soil = per_chunk(.2 * torch.rand_like(b.weight).pow(2))
        self.context.copy_((1 - soil) * b.z + soil * torch.randn_like(b.z))
        self.state.copy_((1 - level) * b.z + level * torch.randn_like(b.z))
        self.focus.copy_(b.focus)
        self.weight.copy_(b.weight)

    def run(self) -> None:
        self.steps[self.mode()]()

    @torch.no_grad()
    def _end_point(self, level: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """The teacher's Euler solution from `level` to 0."""
        cache = self.teacher.cache_clean(self.context[:, :-1], text[:, :-1], self.table)
        silence = self.teacher.text_embedding(torch.zeros_like(text))
        x, now = self.state, level
        u = level / (SPACING - (SPACING - 1) * level)
        for j in range(SUBSTEPS):
            v = u * (1 - (j + 1) / SUBSTEPS)
            then = SPACING * v / (1 + (SPACING - 1) * v)
            flow = self.teacher.denoise(x, now * 1000, text, self.table, cache).float()
            if self.guidance != 1:
                unguided = self.teacher.denoise(x, now * 1000, silence, self.table, cache).float()
                flow = unguided + self.guidance * (flow - unguided)
            x = x + per_chunk(then - now) * flow
            now = then
        return x

    def _body(self, mask_of: Sparse | None) -> None:
        self.flat.grad.zero_()
        self.dit.attend_by(mask_of)
        b, level = self.batch, self.levels[self.which]
        with autocast():
            target = self._end_point(level, self.teacher.text_embedding(self.text)[b.row, b.scene_of_chunk])
            text = self.dit.text_embedding(self.text)[b.row, b.scene_of_chunk]
            v = self.dit(self.context, self.state, level * 1000, text, self.table).float()
        error = self.state - per_chunk(level) * v - target
        robust = (((error.pow(2) + .09).sqrt() - .3) * (1 + 3 * self.focus)).mean((2, 3, 4, 5)) / level
        loss = (robust * self.weight).sum() / self.weight.sum()
        loss.backward()
        square = error.detach().pow(2).mean((2, 3, 4, 5))
        each = [(square * (self.which == i)).sum() / (self.which == i).sum().clamp(min=1) for i in range(len(STEPS))]
        self.stats += torch.stack([loss.detach(), *each, square[:, 0].mean()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="wall time until training ends, all included")
    parser.add_argument("--to", type=float, default=1., help="progress of the schedule at the end of this call")
    parser.add_argument("--steps", type=int, help="end this call after so many steps, whatever the time")
    parser.add_argument("--clips", type=int, default=4500, help="per process; those of stage 2 where they are kept")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--muon-rate", type=float, default=7e-4)
    parser.add_argument("--adam-rate", type=float, default=3e-4)
    parser.add_argument("--guidance", default="1", help="strength, or auto")
    parser.add_argument("--sparse", help="a policy as the engine's --sparsity, to train with: hsa:.85/.95")
    parser.add_argument("--layers", type=int, default=10)
    args = parser.parse_args()
    start(3)
    tokenizer = Tokenizer(args.tokenizer)
    ae = nets.autoencoder(load_weights(os.path.join(args.out, "ae.safetensors")), DEVICE)
    data = latents.load_or_build(os.path.join(args.out, "latents"), ae, tokenizer, args.clips, 1000)
    del ae
    t5, dit = nets.build(len(tokenizer), DEVICE, args.layers)
    t5.load_state_dict(load_weights(os.path.join(args.out, "t5.safetensors")))
    dit.load_state_dict(load_dit(args.out, "base"))
    torch.manual_seed(99 + RANK)
    job = DistillJob(t5, dit, data, args.batch, None if args.guidance == "auto" else float(args.guidance),
                     Sparse(parse(args.sparse)) if args.sparse else None)

    def export() -> None:
        save_dit(args.out, dit.state_dict(), "distilled")

    plan = Plan("distill", args.out, args.seconds - elapsed(), args.to, args.steps, hold=.35, warm=40, ema=.997,
                check=CYCLE * (10 if CUDA else 1), guess=.25, diverged=2., export=export)
    report = fit(job, Optimizer(job.flat, args.adam_rate, args.muon_rate, decay=0.), plan)
    if RANK == 0:
        report |= dict(clips=len(data) * WORLD, batch=args.batch * WORLD, teacher_steps=SUBSTEPS, guidance=job.guidance,
                       sparse=args.sparse)
        log(report)
        with open(os.path.join(args.out, "distill.json"), "w", encoding="utf-8") as f:
            json.dump(report, f, indent=1)
    finish()


if __name__ == "__main__":
    main()
