# SPDX-License-Identifier: Apache-2.0
"""The cached sampler: four denoising steps a chunk over a window of seven chunks (the first, the last five and the one
being made), then one pass on the result that fills its keys and values. Keys are cached before RoPE; positions count
from the start of the window. `sample` and `decode` are what evaluation calls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nets import CHUNK_LATENTS, CHUNK_TOKENS, LATENT, TAEHV, Block, KeyValue, MaskOf, Rope, T5Encoder, WanDiT, attend, \
    layernorm, rope_table, rotate
from text import Tokenizer

SHIFT = 5.0
WINDOW_CHUNKS = 7


def warp(u: float) -> float:
    """The schedule's shift of a noise level."""
    return SHIFT * u / (1 + (SHIFT - 1) * u)


STEPS = tuple(warp(s / 1000) * 1000 for s in (1000, 750, 500, 250))
RENOISE_ABOVE = 900.  # steps from there on down follow the flow
ALWAYS, NEVER = 0., 1000.


def many_steps(count: int) -> tuple[float, ...]:
    """Times for a plain Euler solution in `count` steps."""
    return tuple(warp(1 - i / count) * 1000 for i in range(count))


def _block(b: Block, x: Tensor, e: Tensor, context: Tensor, here: Rope, there: Rope, past: KeyValue | None, layer: int,
           mask_of: MaskOf | None) -> tuple[Tensor, KeyValue]:
    """One block on one chunk [B, T, C] over the cached chunks."""
    m = [t.squeeze(-2) if t.dim() == 4 else t for t in b.modulate(e, x)]
    q, k, v = b.self_attn.qkv(layernorm(x) * (1 + m[1]) + m[0])
    keys = k if past is None else torch.cat([past[0], k], 1)
    values = v if past is None else torch.cat([past[1], v], 1)
    qr, kr = rotate(q, here), rotate(keys, there)
    mask = None if mask_of is None or past is None else mask_of(layer, qr, kr)
    x = x + b.self_attn.o(attend(qr, kr, values.to(qr.dtype), mask).flatten(-2)) * m[2]
    x = x + b.cross_attn(b.norm3(x), context)
    return x + b.ffn(layernorm(x) * (1 + m[4]) + m[3]) * m[5], (k, v)


class Rollout:
    """A batch of streams in the making."""

    def __init__(self, dit: WanDiT, batch: int, device: torch.device, mask_of: MaskOf | None = None,
                 noise: Callable[[], Tensor] | None = None) -> None:
        self.dit, self.batch, self.device, self.mask_of = dit, batch, device, mask_of
        self.noise = noise or (lambda: torch.randn(batch, CHUNK_LATENTS, *LATENT, device=device))
        self.table = rope_table(WINDOW_CHUNKS * CHUNK_LATENTS, dit.head_dim, device)
        self.window: list[list[KeyValue]] = []

    def evaluate(self, x: Tensor, t: float, context: Tensor) -> tuple[Tensor, list[KeyValue]]:
        """The flow at x [B, 3, 16, 18, 32], time t in 0..1000, and the keys and values of every layer, which at time 0 may
        join the window."""
        d, at = self.dit, len(self.window) * CHUNK_TOKENS
        here = tuple(v[at:at + CHUNK_TOKENS] for v in self.table)
        there = tuple(v[:at + CHUNK_TOKENS] for v in self.table)
        h = d.patch(x)
        e, e0 = d.embed_time(torch.full((self.batch,), t, device=self.device))
        new = []
        for i, block in enumerate(d.blocks):
            past = None
            if self.window:
                past = tuple(torch.cat([c[i][j] for c in self.window], 1) for j in (0, 1))
            h, kv = _block(block, h, e0, context.to(h.dtype), here, there, past, i, self.mask_of)
            new.append(kv)
        return d.unpatch(d.head(h, e)), new

    def chunk(self, context: Tensor, steps: tuple[float, ...] = STEPS, renoise_above: float = RENOISE_ABOVE,
              seen: Callable[[int, Tensor], None] | None = None) -> Tensor:
        """Samples the next chunk [B, 3, 16, 18, 32] under context [B, S, C]. A step from a time above renoise_above
        noises what it saw anew, others follow the flow (Euler). seen: called with every step's index and input."""
        x = self.noise()
        for i, t in enumerate(steps):
            if seen is not None:
                seen(i, x)
            v = self.evaluate(x, t, context)[0].float()
            clean = x - t / 1000 * v
            if i + 1 == len(steps):
                break
            level = steps[i + 1] / 1000
            x = (1 - level) * clean + level * self.noise() if t > renoise_above else x + (level - t / 1000) * v
        self.window.append(self.evaluate(clean, 0., context)[1])
        if len(self.window) == WINDOW_CHUNKS:
            del self.window[1]
        return clean


@torch.no_grad()
def sample(t5: T5Encoder, dit: WanDiT, tokenizer: Tokenizer, prompts: list[list[str]], seed: int, *,
           steps: tuple[float, ...] = STEPS, renoise_above: float = RENOISE_ABOVE, mask_of: MaskOf | None = None,
           amp: bool = True) -> Tensor:
    """prompts [streams][chunks] -> latents [streams, 3 * chunks, 16, 18, 32]; all noise comes from the seed."""
    device = next(dit.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    unique = sorted({p for stream in prompts for p in stream})
    number = {p: i for i, p in enumerate(unique)}
    shape = (len(prompts), CHUNK_LATENTS, *LATENT)
    out = []
    with torch.autocast(device.type, torch.bfloat16, enabled=amp):
        contexts = dit.text_embedding(t5(tokenizer.encode(unique).to(device).long()))
        stream = Rollout(dit, len(prompts), device, mask_of, lambda: torch.randn(shape, device=device, generator=generator))
        for c in range(len(prompts[0])):
            at = torch.tensor([number[p[c]] for p in prompts], device=device)
            out.append(stream.chunk(contexts[at], steps, renoise_above))
    return torch.cat(out, 1)


@torch.no_grad()
def decode(ae: TAEHV, latents: Tensor, batch: int = 8, step: int = 15, amp: bool = True) -> Tensor:
    """Latents [B, n, 16, 18, 32] -> frames [B, 4 n, 3, 144, 256] in 0..1, streamed from zero memory."""
    out = []
    for i in range(0, latents.shape[0], batch):
        memory: list[Tensor | None] = [None] * len(ae.decoder)
        parts = []
        for j in range(0, latents.shape[1], step):
            with torch.autocast(latents.device.type, torch.bfloat16, enabled=amp):
                parts.append(ae.decode(latents[i:i + batch, j:j + step], memory).float().clamp(0, 1))
        out.append(torch.cat(parts, 1))
    return torch.cat(out)
