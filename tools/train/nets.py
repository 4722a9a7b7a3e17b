# SPDX-License-Identifier: Apache-2.0
"""The demo model's three networks, named and laid out as their big relatives: a TAEHV autoencoder, a umT5 encoder and a
causal Wan DiT. Sizes are the demo's; the engine reads the same tensors.

Latents are [16, 18, 32] per four frames of 144x256; a chunk is 3 latents = 432 tokens (patches of 1x2x2). Training runs
the DiT over whole clips with teacher forcing: the clean chunks attend to clean chunks up to their own, each noisy chunk
to the clean ones before it and to itself. That equals the cached sampler in rollout.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT = (16, 18, 32)
CHUNK_LATENTS = 3
GRID = (9, 16)
CHUNK_TOKENS = CHUNK_LATENTS * GRID[0] * GRID[1]
TEXT_LENGTH = 64
ENCODER, DECODER = (32, 48, 96, 128), (112, 64, 24, 16)  # channels of the autoencoder's halves, level by level
Rope = tuple[Tensor, Tensor]
KeyValue = tuple[Tensor, Tensor]
# For a layer: a mask [B, heads, queries, keys] (True: look) from rotated queries and keys, or None for all.
MaskOf = Callable[[int, Tensor, Tensor], Tensor | None]


# ------------------------------------------------------------------ TAEHV
def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=bias)


class Clamp(nn.Module):
    """Keeps latents in (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemBlock(nn.Module):
    """A residual block that also sees its own input of the time step before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(width * 2, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        return F.relu(self.conv(torch.cat([x, past], 1)) + x)


class TPool(nn.Module):
    """Merges `stride` frames into one."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        merged = x.reshape(-1, self.stride * x.shape[1], *x.shape[2:])
        return self.conv(merged.contiguous(memory_format=torch.channels_last))


class TGrow(nn.Module):
    """Splits one frame into `stride`."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        grown = self.conv(x).reshape(-1, *x.shape[1:])
        return grown.contiguous(memory_format=torch.channels_last)


def _run(model: nn.Sequential, x: Tensor, memory: list[Tensor | None] | None) -> Tensor:
    """x [N, T, C, H, W]. memory: one entry per module, carried from call to call of a stream; None starts at zero."""
    clips = x.shape[0]
    x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    for i, block in enumerate(model):
        if not isinstance(block, MemBlock):
            x = block(x)
            continue
        count, c, h, w = x.shape
        y = x.permute(0, 2, 3, 1).reshape(clips, -1, h, w, c)
        first = torch.zeros_like(y[:, :1])
        if memory is not None:
            first = first if memory[i] is None else memory[i].to(y.dtype)
            memory[i] = y[:, -1:].clone()
        past = torch.cat([first, y[:, :-1]], 1).reshape(count, h, w, c).permute(0, 3, 1, 2)
        x = block(x, past)
    return x.reshape(clips, -1, *x.shape[1:])


class TAEHV(nn.Module):
    """The autoencoder: 8x8 pixels and 4 frames to one latent, and back."""

    def __init__(self, enc: tuple[int, ...] = ENCODER, dec: tuple[int, ...] = DECODER) -> None:
        super().__init__()
        e, d, z = enc, dec, LATENT[0]
        layers: list[nn.Module] = [_conv(3, e[0]), nn.ReLU()]
        for i, stride in enumerate((2, 2, 1)):
            layers += [TPool(e[i], stride), _conv(e[i], e[i + 1], stride=2, bias=False)]
            layers += [MemBlock(e[i + 1]) for _ in range(3)]
        self.encoder = nn.Sequential(*layers, _conv(e[3], z))
        layers = [Clamp(), _conv(z, d[0]), nn.ReLU()]
        for i, stride in enumerate((1, 2, 2)):
            layers += [MemBlock(d[i]) for _ in range(3)]
            layers += [nn.Upsample(scale_factor=2), TGrow(d[i], stride), _conv(d[i], d[i + 1], bias=False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), _conv(d[3], 3))

    def encode(self, x: Tensor, memory: list[Tensor | None] | None = None) -> Tensor:
        return _run(self.encoder, x, memory)

    def decode(self, z: Tensor, memory: list[Tensor | None] | None = None) -> Tensor:
        return _run(self.decoder, z, memory)


def autoencoder(weights: dict[str, Tensor], device: torch.device | str = "cpu") -> TAEHV:
    """The autoencoder of these weights, as wide as they are, ready for use; a half that they lack stays as it was made."""
    def widths(half: str, at: tuple[int, ...], default: tuple[int, ...]) -> tuple[int, ...]:
        names = [f"{half}.{i}.weight" for i in at]
        return tuple(weights[n].shape[0] for n in names) if names[0] in weights else default

    ae = TAEHV(widths("encoder", (0, 3, 8, 13), ENCODER), widths("decoder", (1, 8, 14, 20), DECODER))
    rest = ae.load_state_dict(weights, strict=False)
    if rest.unexpected_keys or any(half in {k.split(".")[0] for k in weights} for half in {k.split(".")[0] for k in rest.missing_keys}):
        raise ValueError(f"no autoencoder: {sorted(rest.unexpected_keys + rest.missing_keys)[:4]}")
    return ae.to(device, memory_format=torch.channels_last).eval()


@torch.no_grad()
def widen(weights: dict[str, Tensor], ae: TAEHV) -> None:
    """Puts a narrower autoencoder's weights into ae, which then computes the same: what is new has weights of its own, to which
    nothing listens yet."""
    groups = {}  # of the outputs and of the inputs, where they are not one
    for half in ("encoder", "decoder"):
        for i, m in enumerate(getattr(ae, half)):
            if isinstance(m, MemBlock):
                groups[f"{half}.{i}.conv.0.weight"] = 1, 2
            elif isinstance(m, TGrow):
                groups[f"{half}.{i}.conv.weight"] = m.stride, 1
            elif isinstance(m, TPool):
                groups[f"{half}.{i}.conv.weight"] = 1, m.stride
    for name, new in ae.state_dict().items():
        old = weights[name]
        if new.dim() == 1:
            new[:len(old)] = old
            continue
        o, i = groups.get(name, (1, 1))
        whole = new.unflatten(1, (i, -1)).unflatten(0, (o, -1)).clone()
        part = old.unflatten(1, (i, -1)).unflatten(0, (o, -1))
        whole[:, :part.shape[1]] = 0
        whole[:, :part.shape[1], :, :part.shape[3]] = part
        new.copy_(whole.flatten(0, 1).flatten(1, 2))


# ------------------------------------------------------------------ umT5 encoder
class T5LayerNorm(nn.Module):
    """A root-mean-square norm."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class T5Attention(nn.Module):
    """Attention without scaling, with a bias by relative position."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        for layer, std in ((self.q, 1 / dim), (self.k, dim ** -.5), (self.v, dim ** -.5), (self.o, (heads * dim) ** -.5)):
            nn.init.normal_(layer.weight, std=std)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
        a = ((q @ k.transpose(-1, -2)).float() + bias).softmax(-1)
        return self.o((a.to(v.dtype) @ v).transpose(1, 2).flatten(-2))


class T5FFN(nn.Module):
    """The gated feed-forward layer."""

    def __init__(self, dim: int, ffn: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(dim, ffn, bias=False), nn.GELU(approximate="tanh"))
        self.fc1 = nn.Linear(dim, ffn, bias=False)
        self.fc2 = nn.Linear(ffn, dim, bias=False)
        for layer in (self.gate[0], self.fc1, self.fc2):
            nn.init.normal_(layer.weight, std=layer.in_features ** -.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x) * self.gate(x))


class T5Rel(nn.Module):
    """The bias by relative position, in logarithmic buckets."""

    def __init__(self, buckets: int, heads: int, max_distance: int = 128) -> None:
        super().__init__()
        self.buckets, self.max_distance = buckets, max_distance
        self.embedding = nn.Embedding(buckets, heads)
        nn.init.normal_(self.embedding.weight, std=(2 * buckets * heads) ** -.5)

    def forward(self, length: int) -> Tensor:
        at = torch.arange(length, device=self.embedding.weight.device)
        distance = at[None] - at[:, None]
        half = self.buckets // 2
        exact = half // 2
        far = torch.log(distance.abs().float().clamp(min=1) / exact) / math.log(self.max_distance / exact)
        far = (exact + (far * (half - exact)).long()).clamp(max=half - 1)
        bucket = (distance > 0).long() * half + torch.where(distance.abs() < exact, distance.abs(), far)
        return self.embedding(bucket).permute(2, 0, 1)[None].float()


class T5Block(nn.Module):
    def __init__(self, dim: int, ffn: int, heads: int, buckets: int) -> None:
        super().__init__()
        self.norm1 = T5LayerNorm(dim)
        self.attn = T5Attention(dim, heads)
        self.norm2 = T5LayerNorm(dim)
        self.ffn = T5FFN(dim, ffn)
        self.pos_embedding = T5Rel(buckets, heads)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), self.pos_embedding(x.shape[1]) + mask)
        return x + self.ffn(self.norm2(x))


class T5Encoder(nn.Module):
    """Token ids [B, L] (0 pads) to vectors [B, L, dim]; padding comes out as zeros."""

    def __init__(self, vocab: int, dim: int = 256, ffn: int = 640, heads: int = 4, layers: int = 3, buckets: int = 32) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList([T5Block(dim, ffn, heads, buckets) for _ in range(layers)])
        self.norm = T5LayerNorm(dim)

    def forward(self, ids: Tensor) -> Tensor:
        real = ids != 0
        mask = torch.where(real, 0., -1e9)[:, None, None, :].float()
        x = self.token_embedding(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) * real.unsqueeze(-1)


# ------------------------------------------------------------------ Wan DiT
def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over [B, L, heads, D]."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def layernorm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    y = F.layer_norm(x.float(), (x.shape[-1],), None if weight is None else weight.float(),
                     None if bias is None else bias.float(), 1e-6)
    return y.to(x.dtype)


def rope_table(frames: int, head_dim: int, device: torch.device, theta: float = 10000.) -> Rope:
    """cos, sin [frames * 144, head_dim / 2]; pairs go to time, row and column as in Wan (24, 20, 20 channels of 64)."""
    side = 2 * (head_dim // 6)

    def angles(count: int, channels: int) -> Tensor:
        f = theta ** -(torch.arange(0, channels, 2, device=device, dtype=torch.float64) / channels)
        return torch.arange(count, device=device, dtype=torch.float64)[:, None] * f

    shape = (frames, *GRID, -1)
    t = angles(frames, head_dim - 2 * side)[:, None, None].expand(shape)
    h, w = angles(GRID[0], side)[None, :, None].expand(shape), angles(GRID[1], side)[None, None].expand(shape)
    a = torch.cat([t, h, w], -1).flatten(0, 2)
    return a.cos().float(), a.sin().float()


def rotate(x: Tensor, table: Rope) -> Tensor:
    """Applies RoPE to x [..., L, heads, D] in interleaved pairs; table entries [..., L, D / 2]."""
    c, s = table[0].unsqueeze(-2), table[1].unsqueeze(-2)
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * c - b * s, a * s + b * c], -1).flatten(-2).to(x.dtype)


class RMS(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight.to(x.dtype)


class SelfAttn(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.mask_of: Callable[[Tensor, Tensor], Tensor | None] | None = None  # sparse attention of chunks with a past
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMS(dim), RMS(dim)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x)
        heads = (self.heads, -1)
        return q.unflatten(-1, heads), k.unflatten(-1, heads), v.unflatten(-1, heads)

    def forward(self, x: Tensor, table: Rope, clean: KeyValue | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, N, T, C]: clean chunks (clean None), which see those up to their own, or noisy ones, which see the
        clean ones before theirs and themselves. Returns the output and the keys and values."""
        chunks, tokens = x.shape[1:3]
        q, k, v = self.qkv(x)
        part = tuple(t[:chunks * tokens].view(1, chunks, tokens, -1) for t in table)
        q, k = rotate(q, part), rotate(k, part)
        out = []
        for i in range(chunks):
            if clean is None:
                keys, values = k[:, :i + 1].flatten(1, 2), v[:, :i + 1].flatten(1, 2)
            else:
                keys = torch.cat([clean[0][:, :i].flatten(1, 2), k[:, i]], 1)
                values = torch.cat([clean[1][:, :i].flatten(1, 2), v[:, i]], 1)
            mask = self.mask_of(q[:, i], keys) if self.mask_of is not None and i > 0 else None
            out.append(attend(q[:, i], keys, values, mask))
        return self.o(torch.stack(out, 1).flatten(-2)), k, v


class CrossAttn(SelfAttn):
    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x [M, T, C] looks at context [M, S, C]."""
        q = self.norm_q(self.q(x)).unflatten(-1, (self.heads, -1))
        k = self.norm_k(self.k(context)).unflatten(-1, (self.heads, -1))
        v = self.v(context).unflatten(-1, (self.heads, -1))
        return self.o(attend(q, k, v).flatten(-2))


class Norm3(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return layernorm(x, self.weight, self.bias)


class Block(nn.Module):
    def __init__(self, dim: int, ffn: int, heads: int) -> None:
        super().__init__()
        self.self_attn = SelfAttn(dim, heads)
        self.norm3 = Norm3(dim)
        self.cross_attn = CrossAttn(dim, heads)
        self.ffn = nn.Sequential(nn.Linear(dim, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, dim))
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim ** .5)

    def modulate(self, e: Tensor, x: Tensor) -> list[Tensor]:
        """shift, scale, gate of the attention, then of the feed-forward layer; e [..., 6, C]."""
        return [m.to(x.dtype) for m in (self.modulation.float() + e).unsqueeze(-3).unbind(-2)]

    def forward(self, x: Tensor, e: Tensor, context: Tensor, table: Rope,
                clean: KeyValue | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, N, T, C], e [B, N, 6, C], context [B * N, S, C]; see SelfAttn."""
        m = self.modulate(e, x)
        a, k, v = self.self_attn(layernorm(x) * (1 + m[1]) + m[0], table, clean)
        x = x + a * m[2]
        x = x + self.cross_attn(self.norm3(x).flatten(0, 1), context).view_as(x)
        return x + self.ffn(layernorm(x) * (1 + m[4]) + m[3]) * m[5], k, v


class Head(nn.Module):
    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.head = nn.Linear(dim, out)
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim ** .5)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        m = (self.modulation.float() + e.unsqueeze(-2)).unsqueeze(-3).unbind(-2)
        return self.head(layernorm(x) * (1 + m[1].to(x.dtype)) + m[0].to(x.dtype))


class WanDiT(nn.Module):
    """The causal denoiser: predicts noise minus clean latents."""

    def __init__(self, dim: int = 256, ffn: int = 1024, heads: int = 4, layers: int = 10, text_dim: int = 256,
                 freq_dim: int = 256) -> None:
        super().__init__()
        self.dim, self.head_dim, self.freq_dim = dim, dim // heads, freq_dim
        self.patch_embedding = nn.Conv3d(LATENT[0], dim, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, dim * 6))
        self.blocks = nn.ModuleList([Block(dim, ffn, heads) for _ in range(layers)])
        self.head = Head(dim, 4 * LATENT[0])
        self._initialise()

    def _initialise(self) -> None:
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        for m in [*self.text_embedding, *self.time_embedding]:
            if isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=.02)
        nn.init.zeros_(self.head.head.weight)
        nn.init.xavier_uniform_(self.patch_embedding.weight.data.flatten(1))

    def attend_by(self, mask_of: MaskOf | None) -> None:
        """Teacher forcing attends by these masks from here on; None: to everything."""
        for i, block in enumerate(self.blocks):
            block.self_attn.mask_of = None if mask_of is None else functools.partial(mask_of, i)

    def patch(self, x: Tensor) -> Tensor:
        """[..., F, 16, 18, 32] -> [..., F * 144, C]"""
        y = x.unflatten(-2, (GRID[0], 2)).unflatten(-1, (GRID[1], 2))  # F, c, gh, 2, gw, 2
        y = y.permute(*range(y.dim() - 5), -4, -2, -5, -3, -1).flatten(-3)  # F, gh, gw, (c, q, r)
        return F.linear(y.flatten(-4, -2), self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def unpatch(self, x: Tensor) -> Tensor:
        """[..., F * 144, 64 as (q, r, c)] -> [..., F, 16, 18, 32]"""
        y = x.unflatten(-1, (2, 2, LATENT[0])).unflatten(-4, (-1, *GRID))  # F, gh, gw, q, r, c
        n = y.dim()
        y = y.permute(*range(n - 6), n - 6, n - 1, n - 5, n - 3, n - 4, n - 2)  # F, c, gh, q, gw, r
        return y.flatten(-4, -3).flatten(-2, -1)

    def embed_time(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t [...] in 0..1000 -> [..., C] for the head, [..., 6, C] for the blocks."""
        half = self.freq_dim // 2
        f = torch.pow(10000, -torch.arange(half, device=t.device, dtype=torch.float64) / half)
        a = t.double().unsqueeze(-1) * f
        e = self.time_embedding(torch.cat([a.cos(), a.sin()], -1).float()).float()
        return e, self.time_projection(e).float().unflatten(-1, (6, self.dim))

    def cache_clean(self, clean: Tensor, context: Tensor, table: Rope) -> list[KeyValue]:
        """Keys and values of clean chunks [B, N, 3, 16, 18, 32] in every layer; context [B, N, S, C]."""
        h = self.patch(clean)
        _, e = self.embed_time(torch.zeros(clean.shape[:2], device=clean.device))
        context, cache = context.flatten(0, 1).to(h.dtype), []
        for block in self.blocks:
            h, k, v = block(h, e, context, table)
            cache.append((k, v))
        return cache

    def denoise(self, noisy: Tensor, t: Tensor, context: Tensor, table: Rope, cache: list[KeyValue]) -> Tensor:
        """What to subtract from noisy chunks [B, N, 3, 16, 18, 32] at t [B, N], each over the clean ones before it."""
        h = self.patch(noisy)
        e, e0 = self.embed_time(t)
        context = context.flatten(0, 1).to(h.dtype)
        for block, kv in zip(self.blocks, cache, strict=True):
            h = block(h, e0, context, table, kv)[0]
        return self.unpatch(self.head(h, e))

    def forward(self, clean: Tensor, noisy: Tensor, t: Tensor, context: Tensor, table: Rope) -> Tensor:
        """Teacher forcing over whole clips; clean and noisy [B, N, 3, 16, 18, 32], context [B, N, S, C]."""
        cache = self.cache_clean(clean[:, :-1], context[:, :-1], table)
        return self.denoise(noisy, t, context, table, cache)


def build(vocab: int, device: torch.device, layers: int = 10) -> tuple[T5Encoder, WanDiT]:
    """The text encoder and the denoiser of the demo."""
    return T5Encoder(vocab).to(device), WanDiT(layers=layers).to(device)
