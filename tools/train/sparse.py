# SPDX-License-Identifier: Apache-2.0
"""Sparse attention for the PyTorch networks, as the engine does it (engine/sparsity.c, engine/MODEL.md section 10):
each block of queries reads a fixed number of key blocks, chosen by the products of means after RoPE, and this number
shrinks with the visible past by Chunk-Aware Growth.

A `Policy` says how; a `Sparse` is the mask function that rollout.Rollout and the training of nets.WanDiT take. Scores are
products in double of means rounded to float, ties go to the lower index, nothing is forced in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

NEVER = -math.inf


@dataclass(frozen=True)
class Policy:
    """The numbers of a manifest's section `sparsity`; frames are latent frames."""

    name: str = "dense"  # dense, topk, hsa, window, random
    target: float = 0.
    base: float = 0.
    block: int = 16  # tokens
    frame_tokens: int = 144
    chunk_frames: int = 3
    window_frames: int = 21
    horizon_frames: int = 21
    keep_frames: int = 6
    keep_sink: int = 1
    keep_near: int = 2

    @property
    def blocks_per_frame(self) -> int:
        return -(-self.frame_tokens // self.block)

    def growth(self) -> list[float]:
        """The share that each chunk of the horizon drops."""
        f, chunks = self.chunk_frames, self.horizon_frames // self.chunk_frames
        seen = [float((c + 1) * f) for c in range(1, chunks)]
        length = seen if self.window_frames < 0 else [min(n, self.window_frames) for n in seen]
        beta = (self.base - self.target) * sum(length) / sum(n / math.sqrt(m) for n, m in zip(length, seen, strict=True))
        return [0.] + [min(max(self.base - beta / math.sqrt(n), 0.), 1.) for n in seen]

    def keep(self, frames: int, chunk: int | None = None) -> int:
        """Key blocks that each query block reads of `frames` visible frames, the chunk's own included. chunk: its
        number within its scene; None takes it from the visible frames."""
        blocks, past = frames * self.blocks_per_frame, frames - self.chunk_frames
        if self.name == "dense" or past <= 0:
            return blocks
        if self.name == "window" and self.target <= 0:
            return min(blocks, (self.keep_sink + self.keep_near + self.chunk_frames) * self.blocks_per_frame)
        shares = self.growth()
        s = shares[min(frames // self.chunk_frames - 1 if chunk is None else chunk, len(shares) - 1)]
        two_stages = self.name == "hsa" and 0 < self.keep_frames < past
        eligible = (self.keep_frames + self.chunk_frames) * self.blocks_per_frame if two_stages else blocks
        return min(max(1, math.floor((1 - s) * blocks + 1e-9)), eligible)


def parse(text: str, model: Policy | None = None) -> Policy:
    """POLICY[:TARGET[/BASE]], as the engine's --sparsity; what it does not say comes from `model`."""
    name, _, numbers = text.partition(":")
    if name not in ("dense", "topk", "hsa", "window", "random"):
        raise ValueError(f"{text}: unknown policy")
    policy = replace(model or Policy(), name=name)
    if not numbers:
        return policy
    target, _, base = numbers.partition("/")
    return replace(policy, target=float(target), base=float(base or target))


def block_means(x: Tensor, policy: Policy) -> Tensor:
    """[B, L, heads, D] -> [B, heads, blocks, D], each over its true length; blocks do not cross frames."""
    frames = x.unflatten(1, (-1, policy.frame_tokens))
    means = [part.mean(2, dtype=torch.float64) for part in frames.split(policy.block, 2)] \
        if policy.frame_tokens % policy.block else frames.unflatten(2, (-1, policy.block)).mean(3, dtype=torch.float64)
    if isinstance(means, list):
        means = torch.stack(means, 2)
    return means.float().flatten(1, 2).transpose(1, 2)


def frame_means(blocks: Tensor, policy: Policy) -> Tensor:
    """Block means [B, heads, blocks, D] -> [B, heads, frames, D]."""
    count = policy.blocks_per_frame
    at = torch.arange(count, dtype=torch.float64, device=blocks.device)
    length = (policy.frame_tokens - policy.block * at).clamp(max=policy.block)
    mean = (blocks.unflatten(2, (-1, count)).double() * length[:, None]).sum(3) / policy.frame_tokens
    return mean.float()


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return (q.double() @ k.double().transpose(-1, -2)).float()


def _best(scores: Tensor, count: int) -> Tensor:
    """True where a score is among the best `count` of its row."""
    order = scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order, True)


def _eligible(q: Tensor, k: Tensor, policy: Policy) -> Tensor:
    """HSA's frame stage: [B, heads, query blocks, key blocks], True for blocks of frames that are candidates."""
    frames = k.shape[2] // policy.blocks_per_frame
    past, middle = frames - policy.chunk_frames, policy.keep_frames - policy.keep_sink - policy.keep_near
    first, last = policy.keep_sink, past - policy.keep_near
    score = _scores(q, frame_means(k, policy))
    use = torch.ones_like(score, dtype=torch.bool)
    use[..., first:last] = _best(score[..., first:last], middle)
    return use.repeat_interleave(policy.blocks_per_frame, -1)


def select(q: Tensor, k: Tensor, policy: Policy, seed: int = 0, chunk: int | None = None) -> Tensor | None:
    """Which key blocks each query block reads, [B, heads, query blocks, key blocks], from rotated queries and keys
    [B, L, heads, D]; None: all of them. `seed` is for random blocks."""
    frames = k.shape[1] // policy.frame_tokens
    blocks, keep = frames * policy.blocks_per_frame, policy.keep(frames, chunk)
    if keep >= blocks:
        return None
    shape = (q.shape[0], q.shape[2], policy.chunk_frames * policy.blocks_per_frame, blocks)
    if policy.name == "window":
        use = torch.zeros(shape, dtype=torch.bool, device=q.device)
        past = (frames - policy.chunk_frames) * policy.blocks_per_frame
        sink = min(policy.keep_sink * policy.blocks_per_frame, past, keep)
        use[..., :sink] = True
        use[..., blocks - (keep - sink):] = True
        return use
    if policy.name == "random":
        generator = torch.Generator(q.device).manual_seed(seed)
        return _best(torch.rand(shape, generator=generator, device=q.device), keep)
    with torch.autocast(q.device.type, enabled=False):
        qm, km = block_means(q, policy), block_means(k, policy)
        scores = _scores(qm, km)
        if policy.name == "hsa" and 0 < policy.keep_frames < frames - policy.chunk_frames:
            scores = scores.masked_fill(~_eligible(qm, km, policy), NEVER)
        return _best(scores, keep)


def token_mask(use: Tensor, policy: Policy) -> Tensor:
    """Blocks to tokens: [B, heads, queries, keys]."""
    if policy.frame_tokens % policy.block == 0:
        rows = use.repeat_interleave(policy.block, -1)
        return rows.unsqueeze(3).expand(-1, -1, -1, policy.block, -1).flatten(2, 3)
    lengths = [policy.block] * policy.blocks_per_frame
    lengths[-1] = policy.frame_tokens - (policy.blocks_per_frame - 1) * policy.block
    for dim in (-1, -2):
        repeats = torch.tensor(lengths * (use.shape[dim] // len(lengths)), device=use.device)
        use = use.repeat_interleave(repeats, dim)
    return use


class Sparse:
    """The mask function of one policy: (layer, rotated queries, rotated keys) -> [B, heads, queries, keys] or None.

    The chunk's number within its scene is taken from the visible frames, so a scene's growth ends where the window is
    full. Random blocks are drawn once for each layer and chunk, not for each pass. `kept` and `seen` count pairs of blocks
    of all calls with a past.
    """

    def __init__(self, policy: Policy, seed: int = 0) -> None:
        self.policy, self.seed = policy, seed
        self.kept = self.seen = 0

    @torch.no_grad()
    def __call__(self, layer: int, q: Tensor, k: Tensor) -> Tensor | None:
        frames = k.shape[1] // self.policy.frame_tokens
        if frames <= self.policy.chunk_frames:
            return None
        self.kept += self.policy.keep(frames)
        self.seen += frames * self.policy.blocks_per_frame
        use = select(q, k, self.policy, self.seed * 1000003 + layer * 1009 + frames)
        return None if use is None else token_mask(use, self.policy)

    def dropped(self) -> float:
        """The share of key blocks that was not read, over chunks with a past."""
        return 1 - self.kept / self.seen if self.seen else 0.
