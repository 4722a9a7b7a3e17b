# SPDX-License-Identifier: Apache-2.0
"""Scripts of training clips: up to three scenes each, when one turns into the next, and the captions of each.

Half of the clips skip some time after their first chunk, as a stream does whose window keeps the first chunk and the
last ones. A changed subject or direction is common, since that is the hardest turn to draw.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

import captions
from attributes import NAMES, Attributes, change, sample
from world import SEEDS

CHUNK_FRAMES = 12
CHUNKS = 7
NEVER = 1e7
SETTLE_CHUNKS = 2  # chunks from a change on in which the old scene may still be seen


@dataclass
class Clips:
    """N clips of `CHUNKS` chunks."""

    scenes: dict[str, Tensor]  # attribute -> [N, 3]
    switch: Tensor  # [N, 2] frame times at which scenes 1 and 2 begin
    time: Tensor  # [N, frames]
    scene_of_chunk: Tensor  # [N, CHUNKS] 0..2
    captions: list[list[list[str]]]  # [N][3][paraphrases]
    weight: Tensor  # [N, CHUNKS] of the loss: 0 where a chunk cannot be foreseen (the one after a skip)
    settled: Tensor  # [N, CHUNKS] 1 where a chunk shows its scene and nothing else
    seeds: Tensor  # [N, SEEDS]

    def __len__(self) -> int:
        return self.switch.shape[0]


def _plan(rng: random.Random, skip_probability: float) -> tuple[list[Attributes], list[int], int]:
    """Scenes, the chunks at which scenes 1 and 2 begin (CHUNKS: never), and the frames skipped after chunk 0."""
    first = sample(rng)
    if rng.random() < skip_probability:
        second, at = first, [1, CHUNKS]
        if rng.random() < .55:
            second = change(first, rng)
            if rng.random() < .5:
                second = change(second, rng)
        third = second
        if rng.random() < .5:
            third, at[1] = change(second, rng), rng.randrange(2, CHUNKS)
        return [first, second, third], at, rng.randrange(40, 900)
    count = rng.choices((0, 1, 2), (.25, .43, .32))[0]
    if count == 0:
        return [first] * 3, [CHUNKS, CHUNKS], 0
    second, start = change(first, rng), rng.randrange(1, CHUNKS if count == 1 else CHUNKS - 3)
    if count == 1:
        return [first, second, second], [start, CHUNKS], 0
    return [first, second, change(second, rng)], [start, rng.randrange(start + 3, CHUNKS)], 0


def make(count: int, seed: int, skip_probability: float = .5, paraphrases: int = 3) -> Clips:
    """Draws `count` scripts; the same seed gives the same clips."""
    rng = random.Random(seed)
    frames = CHUNKS * CHUNK_FRAMES
    clips = Clips(
        scenes={name: torch.zeros(count, 3, dtype=torch.long) for name in NAMES}, switch=torch.full((count, 2), NEVER),
        time=torch.arange(frames).float().repeat(count, 1), captions=[], weight=torch.ones(count, CHUNKS),
        scene_of_chunk=torch.zeros(count, CHUNKS, dtype=torch.long), settled=torch.ones(count, CHUNKS),
        seeds=torch.rand(count, SEEDS, generator=torch.Generator().manual_seed(seed)))
    for i in range(count):
        scenes, at, skipped = _plan(rng, skip_probability)
        start = rng.randrange(0, 400)
        clips.time[i] += start
        clips.time[i, CHUNK_FRAMES:] += skipped
        if skipped:
            clips.weight[i, 1] = 0
        for j, chunk in enumerate(at):
            if chunk >= CHUNKS:
                continue
            hidden = skipped and j == 0  # the change happens during the skip
            clips.switch[i, j] = start + chunk * CHUNK_FRAMES + (0 if hidden else skipped)
            clips.scene_of_chunk[i, chunk:] = j + 1
            if not hidden:
                clips.settled[i, chunk:chunk + SETTLE_CHUNKS] = 0
        for name in NAMES:
            for j in range(3):
                clips.scenes[name][i, j] = scenes[j][name]
        clips.captions.append([_captions(rng, scenes, j, bool(skipped), paraphrases) for j in range(3)])
    return clips


def _captions(rng: random.Random, scenes: list[Attributes], j: int, skipped: bool, paraphrases: int) -> list[str]:
    """Captions of scene j; after a change that the clip shows, one in ten is an instruction."""
    shown = j > 0 and scenes[j] != scenes[j - 1] and not (skipped and j == 1)
    return [captions.instruct(scenes[j - 1], scenes[j], rng) if shown and rng.random() < .1
            else captions.describe(scenes[j], rng, captions.TRAINED_OMISSION) for _ in range(paraphrases)]
