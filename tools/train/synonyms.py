# SPDX-License-Identifier: Apache-2.0
"""After stage 3, where pictures show that a phrase is misread which another of the same meaning is not:

    python3 tools/train/synonyms.py DIR --tokenizer tokenizer.model

The text encoder learns to say of the weak phrase what it says of the sure one, word for word, in the same caption, and is
held to what it says of captions and instructions without one; the denoiser stays as it is. Runs on a CPU in minutes. Reads
and replaces DIR/t5.safetensors.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import re

import torch
from torch import Tensor

import attributes
import captions
import nets
from runtime import load_weights, log, save_weights
from text import Tokenizer

# weak -> sure, of as many pieces. Misread by weights that shipped: all 21 wrong weathers of about 500 prompts through the engine were
# of the first four; later ones read "snowy" as a word on the mountains, in half of the pictures that have them.
SURE = {r"in fine weather": "in clear weather", r"fine weather": "clear sky", r"while it snows": "while snow falls",
        r"while it rains": "while rain falls", r"in snowy weather": "in the snow", r"snowy(?! (mountains|weather))": "snow"}
# "it" shall say what "falls" says, "snows" and "snowy" what "snow" says
CROSSED = ("snow falls", "rain falls", "the snow")
HOLD = 3.  # weight of what shall stay


def replaced(text: str) -> str:
    for weak, sure in SURE.items():
        text = re.sub(rf"\b{weak}\b", sure, text, flags=re.IGNORECASE)
    return text


def any_text(rng: random.Random) -> str:
    scene = attributes.sample(rng)
    if rng.random() < .25:
        return captions.instruct(scene, attributes.change(scene, rng), rng)
    return captions.describe(scene, rng, rng.choice((0., captions.TRAINED_OMISSION)))


def _cut(ids: Tensor) -> Tensor:
    return ids[:, :int((ids != 0).sum(1).max())]


def weak_batch(rng: random.Random, size: int, tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of captions with weak phrases, of the same captions with sure ones, and where in the latter each word's match is."""
    weak: list[str] = []
    sure: list[str] = []
    while len(weak) < size:
        text = any_text(rng)
        other = replaced(text)
        if other != text and len(set(map(len, tokenizer.model.encode([text, other])))) == 1:
            weak.append(text)
            sure.append(other)
    a, b = _cut(tokenizer.encode(weak).long()), _cut(tokenizer.encode(sure).long())
    place = torch.arange(a.shape[1]).repeat(size, 1)
    for phrase in CROSSED:
        first, second = tokenizer.model.encode(phrase)
        row, at = ((b[:, :-1] == first) & (b[:, 1:] == second)).nonzero(as_tuple=True)
        place[row, at], place[row, at + 1] = at + 1, at
    return a, b, place


def other_batch(rng: random.Random, size: int, tokenizer: Tokenizer) -> Tensor:
    """Ids of texts without weak phrases."""
    texts: list[str] = []
    while len(texts) < size:
        text = any_text(rng)
        if replaced(text) == text:
            texts.append(text)
    return _cut(tokenizer.encode(texts).long())


def off(got: Tensor, want: Tensor) -> Tensor:
    """Share of the square."""
    return (got - want).pow(2).sum() / want.pow(2).sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32, help="captions with weak phrases, and twice as many without")
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng, tokenizer = random.Random(args.seed), Tokenizer(args.tokenizer)
    path = os.path.join(args.directory, "t5.safetensors")
    t5, _ = nets.build(len(tokenizer), torch.device("cpu"), 1)
    t5.load_state_dict(load_weights(path))
    before = copy.deepcopy(t5).requires_grad_(False)
    adam = torch.optim.Adam(t5.parameters(), args.rate, betas=(.9, .98))
    for step in range(args.steps):
        for group in adam.param_groups:
            group["lr"] = args.rate * min(1, (step + 1) / 50) * (1 - step / args.steps)
        weak, sure, place = weak_batch(rng, args.batch, tokenizer)
        others = other_batch(rng, 2 * args.batch, tokenizer)
        with torch.no_grad():
            want, same = before(sure), before(others)
        learnt = off(t5(weak), want.gather(1, place[..., None].expand_as(want)))
        held = off(t5(others), same)
        (learnt + HOLD * held).backward()
        adam.step()
        adam.zero_grad()
        if step % 50 == 0 or step + 1 == args.steps:
            log(f"synonyms {step}: weak phrases off by {learnt.item():.4f} of the square, others by {held.item():.5f}")
    save_weights(path, t5.state_dict())


if __name__ == "__main__":
    main()
