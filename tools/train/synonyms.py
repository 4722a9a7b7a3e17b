# SPDX-License-Identifier: Apache-2.0
"""After stage 3, where pictures show that a phrase is misread which another of the same meaning is not:

    python3 tools/train/synonyms.py DIR --tokenizer tokenizer.model

Gives the words that only weak phrases have new embeddings, with which the text encoder says what it says for the sure
phrase, word for word, in the same caption. Nothing else of it changes, so other captions are encoded as before to the
bit. Runs on a CPU in a minute. Reads and replaces DIR/t5.safetensors.
"""

from __future__ import annotations

import argparse
import os
import random
import re

import torch

import attributes
import captions
import nets
from runtime import load_weights, log, save_weights
from text import Tokenizer

# weak -> sure, of as many pieces; the weak ones were all 21 misread weathers of about 500 prompts through the engine
SURE = {"in fine weather": "in clear weather", "fine weather": "clear sky", "while it snows": "while snow falls",
        "while it rains": "while rain falls"}
CROSSED = ("snow falls", "rain falls")  # "it" shall say what "falls" says, "snows" what "snow" says
WORDS = ("fine", "snows", "rains")  # that no other phrase has


def replaced(text: str) -> str:
    for weak, sure in SURE.items():
        text = re.sub(rf"\b{weak}\b", sure, text, flags=re.IGNORECASE)
    return text


def batch(rng: random.Random, size: int, tokenizer: Tokenizer) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids of captions with weak phrases, of the same captions with sure ones, and where in the latter each word's match is."""
    weak: list[str] = []
    sure: list[str] = []
    while len(weak) < size:
        scene = attributes.sample(rng)
        text = captions.describe(scene, rng, rng.choice((0., captions.TRAINED_OMISSION)))
        other = replaced(text)
        if other != text and len(set(map(len, tokenizer.model.encode([text, other])))) == 1:
            weak.append(text)
            sure.append(other)
    a, b = tokenizer.encode(weak).long(), tokenizer.encode(sure).long()
    longest = int((a != 0).sum(1).max())
    a, b = a[:, :longest], b[:, :longest]
    place = torch.arange(longest).repeat(size, 1)
    for phrase in CROSSED:
        first, second = tokenizer.model.encode(phrase)
        row, at = ((b[:, :-1] == first) & (b[:, 1:] == second)).nonzero(as_tuple=True)
        place[row, at], place[row, at + 1] = at + 1, at
    return a, b, place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rate", type=float, default=.02)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng, tokenizer = random.Random(args.seed), Tokenizer(args.tokenizer)
    path = os.path.join(args.directory, "t5.safetensors")
    t5, _ = nets.build(len(tokenizer), torch.device("cpu"), 1)
    t5.load_state_dict(load_weights(path))
    t5.requires_grad_(False)
    table = t5.token_embedding.weight
    rows = torch.tensor([tokenizer.model.piece_to_id("\u2581" + w) for w in WORDS])
    new = table[rows].clone().requires_grad_()
    adam = torch.optim.Adam([new], args.rate, betas=(.9, .98))
    for step in range(args.steps):
        for group in adam.param_groups:
            group["lr"] = args.rate * (1 - step / args.steps)
        weak, sure, place = batch(rng, args.batch, tokenizer)
        want = t5(sure).gather(1, place[..., None].expand(-1, -1, table.shape[1]))
        got = torch.func.functional_call(t5, {"token_embedding.weight": table.index_copy(0, rows, new)}, (weak,))
        loss = (got - want).pow(2).sum() / want.pow(2).sum()
        loss.backward()
        adam.step()
        adam.zero_grad()
        if step % 50 == 0 or step + 1 == args.steps:
            log(f"synonyms {step}: off by {loss.item():.4f} of the square")
    t5.token_embedding.weight = torch.nn.Parameter(table.index_copy(0, rows, new.detach()))
    save_weights(path, t5.state_dict())


if __name__ == "__main__":
    main()
