# SPDX-License-Identifier: Apache-2.0
"""Stage 5, where pictures show that a phrase is misread which another of the same meaning is not:

    python3 tools/train/synonyms.py DIR --tag mix --tokenizer tokenizer.model --seconds 1500

Fits the text encoder until the denoiser, which stays as it is, makes of a caption with a weak phrase what it makes of the
same caption with the sure one. What counts is the denoiser's flow, not the encoder's vectors: which of them it reads, and
how, is its own affair. Other captions are held to the vectors that they had. Runs on a CPU in under an hour. Reads
DIR/dit_TAG_{1,2}.safetensors, reads and replaces DIR/t5.safetensors.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

import attributes
import captions
import nets
from attributes import TERRAINS, WEATHERS, Attributes
from rollout import STEPS, Rollout
from runtime import DEVICE, autocast, elapsed, load_dit, load_weights, log, save_weights
from text import Tokenizer

SNOW, MOUNTAINS = WEATHERS.index("snow"), TERRAINS.index("mountains")
STEP_SHARE = (.5, .2, .2, .1)  # of the sampler's steps: the first decides on the weather
KEEP_BATCH = 96  # captions that are to be encoded as before


def scene(rng: random.Random) -> Attributes:
    """Snow over mountains more often than not: "snowy" is a word on both."""
    while True:
        s = attributes.sample(rng)
        if rng.random() < .75:
            s["wea"] = SNOW
        if rng.random() < .6:
            s["ter"] = MOUNTAINS
        if attributes.trained(s):
            return s


def weak_caption(rng: random.Random) -> str:
    while True:
        text = captions.describe(scene(rng), rng, rng.choice((0., captions.TRAINED_OMISSION)))
        if captions.surely(text) != text:
            return text


def other_caption(rng: random.Random) -> str:
    """One without a weak phrase; often of what is like one: snow otherwise said, snowy mountains under any sky."""
    while True:
        s = scene(rng) if rng.random() < .5 else attributes.sample(rng)
        if rng.random() < .4:
            s["wea"] = rng.randrange(len(WEATHERS))
        if not attributes.trained(s):
            continue
        text = captions.describe(s, rng, rng.choice((0., captions.TRAINED_OMISSION)))
        if rng.random() < .15:
            text = captions.instruct(s, attributes.change(s, rng), rng)
        if captions.surely(text) == text:
            return text


@dataclass
class Case:
    """Streams that begin, or turn, with weak captions."""

    weak: Tensor  # [N, 64] ids
    sure: Tensor  # of the same captions with sure phrases
    past: tuple[Tensor, Tensor] | None  # the chunk before and the ids of its captions, where the stream had begun
    clean: Tensor  # [N, 3, 16, 18, 32] the chunk that the sure captions gave


class Fit:
    """The encoder in the making and what it is held against."""

    def __init__(self, t5: nets.T5Encoder, dit: nets.WanDiT, tokenizer: Tokenizer, rng: random.Random) -> None:
        self.t5, self.dit, self.tokenizer, self.rng = t5, dit.requires_grad_(False), tokenizer, rng
        self.before = copy.deepcopy(t5).requires_grad_(False)

    def words(self, t5: nets.T5Encoder, ids: Tensor) -> Tensor:
        """What the denoiser's blocks are given to read."""
        longest = int((ids != 0).sum(1).max())
        return self.dit.text_embedding(F.pad(t5(ids[:, :longest]), (0, 0, 0, ids.shape[1] - longest)))

    def ids(self, texts: list[str]) -> Tensor:
        return self.tokenizer.encode(texts).to(DEVICE).long()

    def pairs(self, size: int) -> tuple[Tensor, Tensor]:
        """Ids of weak captions and of the sure ones for them."""
        texts = [weak_caption(self.rng) for _ in range(size)]
        return self.ids(texts), self.ids([captions.surely(t) for t in texts])

    @torch.no_grad()
    def make_case(self, size: int, begun: bool) -> Case:
        (weak, sure), past = self.pairs(size), None
        stream = Rollout(self.dit, size, DEVICE)
        if begun:
            ids = self.ids([other_caption(self.rng) for _ in range(size)])
            past = stream.chunk(self.words(self.before, ids)), ids
        return Case(weak, sure, past, stream.chunk(self.words(self.before, sure)))

    def misread(self, case: Case, time: float) -> Tensor:
        """Mean square by which the flow at `time` is off that of the sure captions."""
        stream = Rollout(self.dit, len(case.clean), DEVICE)
        level = time / 1000
        if level == 1:  # nothing is seen of the clean chunk, so any caption will do
            case = replace(case, **dict(zip(("weak", "sure"), self.pairs(len(case.clean)), strict=True)))
        x = (1 - level) * case.clean + level * torch.randn_like(case.clean)
        with torch.no_grad():
            if case.past is not None:
                clean, ids = case.past
                stream.window.append(stream.evaluate(clean, 0., self.words(self.before, ids))[1])
            want = stream.evaluate(x, time, self.words(self.before, case.sure))[0].float()
        got = stream.evaluate(x, time, self.words(self.t5, case.weak))[0].float()
        return (got - want).pow(2).mean()

    def forgotten(self) -> Tensor:
        """How far what the denoiser reads of other captions has moved, as a share of its square."""
        ids = self.ids([other_caption(self.rng) for _ in range(KEEP_BATCH)])
        with torch.no_grad():
            want = self.words(self.before, ids)
        real = (ids != 0)[..., None]
        return ((self.words(self.t5, ids) - want) * real).pow(2).sum() / (want * real).pow(2).sum()


def run(fit: Fit, cases: list[Case], args: argparse.Namespace, save: Callable[[], None]) -> None:
    """Goes on until the time or the steps are over; the rate falls to nothing with the time."""
    adam = torch.optim.Adam(fit.t5.parameters(), args.rate, betas=(.9, .98))
    seen: list[tuple[float, float]] = []
    began, step = elapsed(), 0
    while (used := (elapsed() - began) / args.seconds) < 1 and step != args.steps:
        for group in adam.param_groups:
            group["lr"] = args.rate * min(1., (step + 1) / 20) * (1 - used)
        with autocast():
            off, moved = fit.misread(fit.rng.choice(cases), *fit.rng.choices(STEPS, STEP_SHARE)), fit.forgotten()
        (off + args.keep * moved).backward()
        torch.nn.utils.clip_grad_norm_(fit.t5.parameters(), .5)
        adam.step()
        adam.zero_grad()
        step += 1
        seen.append((off.item(), moved.item()))
        if len(seen) == 25:
            off_mean, moved_mean = (sum(v) / len(seen) for v in zip(*seen, strict=True))
            log(f"synonyms {step}: flow off by {off_mean:.5f}, other captions moved by {moved_mean:.5f}")
            seen = []
            save()
    save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--tag", default="mix", help="of the denoiser that reads the words")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--seconds", type=float, default=1500)
    parser.add_argument("--steps", type=int, help="end after so many steps, whatever the time")
    parser.add_argument("--cases", type=int, default=16, help="batches of streams that are made first and used again and again")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--keep", type=float, default=1., help="weight of other captions' vectors")
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tokenizer, path = Tokenizer(args.tokenizer), os.path.join(args.directory, "t5.safetensors")
    t5, dit = nets.build(len(tokenizer), DEVICE, args.layers)
    t5.load_state_dict(load_weights(path))
    dit.load_state_dict(load_dit(args.directory, args.tag))
    fit = Fit(t5, dit, tokenizer, random.Random(args.seed))
    cases = [fit.make_case(args.batch, begun=i % 2 == 1) for i in range(args.cases)]
    log(f"synonyms: {args.cases} batches of {args.batch} streams made")
    run(fit, cases, args, lambda: save_weights(path, t5.state_dict()))


if __name__ == "__main__":
    main()
