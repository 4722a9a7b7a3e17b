#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reference files of any size, from NumPy in float64 alone.

    golden_make.py FOLDER [SEED]      writes odd_*.safetensors (needs numpy)

A second implementation of every module of engine/MODEL.md, written from that
text for clarity and not for speed, that shares no line with the engine. It makes
small modules with random weights and sizes chosen to be awkward (odd, prime,
one, a window that is no multiple of the chunk, data at odd offsets), runs them
and writes weights, inputs and outputs in the formats of section 12, for
golden_check. tests/golden/odd_*.safetensors were made with seed 1.
"""
import json
import math
import struct
import sys

import numpy as np

MEAN = [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]
STD = [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
       3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160]


def save(path, tensors, meta, misalign=0):
    """safetensors; `misalign` moves the data off 8-byte boundaries."""
    header = {'__metadata__': {k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items()}}
    data = b''
    for name, array in tensors.items():
        blob = np.ascontiguousarray(array).tobytes()
        header[name] = {'dtype': {'float32': 'F32', 'int32': 'I32'}[str(array.dtype)],
                        'shape': list(array.shape), 'data_offsets': [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header)
    text += ' ' * ((misalign - len(text)) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(text)) + text.encode() + data)


class Weights:
    """Random float32 tensors by name; self[name] is float64."""

    def __init__(self, rng):
        self.rng, self.f32 = rng, {}

    def __getitem__(self, name):
        return self.f32[name].astype(np.float64)

    def __contains__(self, name):
        return name in self.f32

    def normal(self, name, *shape, scale=1.0, about=0.0):
        self.f32[name] = (about + scale * self.rng.standard_normal(shape)).astype(np.float32)

    def gain(self, name, *shape):
        self.normal(name, *shape, scale=0.1, about=1.0)

    def layer(self, name, out, *fan, bias=True):
        """weight [out, *fan] of unit gain, and a small bias."""
        self.normal(name + '.weight', out, *fan, scale=math.prod(fan) ** -0.5)
        if bias:
            self.normal(name + '.bias', out, scale=0.1)

    def linear(self, name, x):
        return x @ self[name + '.weight'].T + self[name + '.bias']

    def named(self):
        return {'weights.' + k: v for k, v in self.f32.items()}


def softmax(s):
    p = np.exp(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def attend(q, k, v, heads, scale, bias=0.0):
    """q [n, h*c], k and v [m, h*c] -> [n, h*c]."""
    q, k, v = (t.reshape(len(t), heads, -1) for t in (q, k, v))
    p = softmax(np.einsum('ihc,jhc->hij', q, k) * scale + bias)
    return np.einsum('hij,jhc->ihc', p, v).reshape(len(q), -1)


def rms(x, gain, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def layer_norm(x, eps):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def silu(x):
    return x / (1 + np.exp(-x))


# ---- umT5 encoder, section 5 ------------------------------------------------------------------

def bucket(r, buckets, far):
    half, exact, d = buckets // 2, buckets // 4, abs(r)
    first = half if r > 0 else 0
    if d < exact:
        return first + d
    k = int(math.log(d / exact) / math.log(far / exact) * exact + 1e-9)
    return first + exact + min(k, exact - 1)


def umt5(path, rng, vocab, d, a, ffn, heads, layers, buckets, far, eps, lengths, misalign):
    w = Weights(rng)
    w.normal('token_embedding.weight', vocab, d)
    w.gain('norm.weight', d)
    for n in range(layers):
        b = f'blocks.{n}.'
        for name, out, fan in (('attn.q', a, d), ('attn.k', a, d), ('attn.v', a, d), ('attn.o', d, a),
                               ('ffn.gate.0', ffn, d), ('ffn.fc1', ffn, d), ('ffn.fc2', d, ffn)):
            w.layer(b + name, out, fan, bias=False)
        w.gain(b + 'norm1.weight', d)
        w.gain(b + 'norm2.weight', d)
        w.normal(b + 'pos_embedding.embedding.weight', buckets, heads, scale=0.5)

    def encode(ids):
        x = w['token_embedding.weight'][ids]
        table = np.array([[bucket(j - i, buckets, far) for j in range(len(ids))] for i in range(len(ids))])
        for n in range(layers):
            def m(name):
                return w[f'blocks.{n}.{name}.weight']
            y = rms(x, m('norm1'), eps)
            bias = m('pos_embedding.embedding')[table].transpose(2, 0, 1)
            x = x + attend(y @ m('attn.q').T, y @ m('attn.k').T, y @ m('attn.v').T, heads, 1, bias) @ m('attn.o').T
            y = rms(x, m('norm2'), eps)
            x = x + (y @ m('ffn.fc1').T * gelu(y @ m('ffn.gate.0').T)) @ m('ffn.fc2').T
        return rms(x, w['norm.weight'], eps)

    longest = max(lengths)
    ids, mask = (np.zeros((len(lengths), longest), np.int32) for _ in range(2))
    out = np.zeros((len(lengths), longest, d), np.float32)
    for s, n in enumerate(lengths):
        ids[s, :n], mask[s, :n] = rng.integers(1, vocab, n), 1
        out[s, :n] = encode(ids[s, :n])
    save(path, w.named() | {'ids': ids, 'mask': mask, 'out': out},
         dict(kind='umT5 encoder, NumPy float64', vocab=vocab, dim=d, dim_attn=a, dim_ffn=ffn, num_heads=heads,
              num_layers=layers, num_buckets=buckets, max_dist=far, eps=eps), misalign)


# ---- causal DiT, sections 6 to 8 --------------------------------------------------------------

class Dit:
    def __init__(self, rng, d, ffn, heads, layers, text_dim, freq_dim, channels, size, patch, window, sink, eps):
        self.d, self.heads, self.layers, self.freq_dim, self.eps = d, heads, layers, freq_dim, eps
        self.channels, self.size, self.patch = channels, size, patch
        self.grid = size[0] // patch[0], size[1] // patch[1]
        self.window, self.sink = window, sink
        self.cache = [{} for _ in range(layers)]  # frame -> (keys, values)
        w = self.w = Weights(rng)
        w.layer('patch_embedding', d, channels, 1, *patch)
        for name, out, fan in (('text_embedding.0', d, text_dim), ('text_embedding.2', d, d), ('time_embedding.0', d, freq_dim),
                               ('time_embedding.2', d, d), ('time_projection.1', 6 * d, d),
                               ('head.head', channels * patch[0] * patch[1], d)):
            w.layer(name, out, fan)
        w.normal('head.modulation', 1, 2, d, scale=0.3)
        for n in range(layers):
            b = f'blocks.{n}.'
            w.normal(b + 'modulation', 1, 6, d, scale=0.3)
            for name in ('self_attn', 'cross_attn'):
                for part in 'qkvo':
                    w.layer(f'{b}{name}.{part}', d, d)
                w.gain(f'{b}{name}.norm_q.weight', d)
                w.gain(f'{b}{name}.norm_k.weight', d)
            w.gain(b + 'norm3.weight', d)
            w.normal(b + 'norm3.bias', d, scale=0.1)
            w.layer(b + 'ffn.0', ffn, d)
            w.layer(b + 'ffn.2', d, ffn)

    def set_text(self, context):
        self.text = self.w.linear('text_embedding.2', gelu(self.w.linear('text_embedding.0', context)))

    def rope(self, x, first, frames):
        """x [frames * rows * columns, d], adjacent pairs turned by (frame, row, column)."""
        pairs = self.d // self.heads // 2
        space = self.d // self.heads // 6
        parts = pairs - 2 * space, space, space
        f, i, j = np.meshgrid(np.arange(first, first + frames), *(np.arange(g) for g in self.grid), indexing='ij')
        angle = np.concatenate([p.reshape(-1, 1) * 10000.0 ** (-np.arange(n) / n) for p, n in zip((f, i, j), parts)], 1)
        z = x.reshape(len(x), self.heads, pairs, 2) @ np.array([1, 1j])
        z = z * np.exp(1j * angle)[:, None]
        return np.stack([z.real, z.imag], -1).reshape(len(x), -1)

    def visible(self, frames):
        """What a chunk that ends before frame `frames` sees."""
        if self.window < 0 or frames <= self.window:
            return list(range(frames))
        return list(range(self.sink)) + list(range(frames - (self.window - self.sink), frames))

    def block(self, n, x, e0, first, frames):
        w, b, heads, eps = self.w, f'blocks.{n}.', self.heads, self.eps
        m = w[b + 'modulation'][0] + e0
        scale = (self.d // heads) ** -0.5
        a, c = b + 'self_attn.', b + 'cross_attn.'
        y = layer_norm(x, eps) * (1 + m[1]) + m[0]
        q = self.rope(rms(w.linear(a + 'q', y), w[a + 'norm_q.weight'], eps), first, frames)
        k = self.rope(rms(w.linear(a + 'k', y), w[a + 'norm_k.weight'], eps), first, frames)
        for f, kv in enumerate(zip(np.split(k, frames), np.split(w.linear(a + 'v', y), frames))):
            self.cache[n][first + f] = kv
        seen = [self.cache[n][f] for f in self.visible(first + frames)]
        keys, values = (np.concatenate(part) for part in zip(*seen))
        x = x + w.linear(a + 'o', attend(q, keys, values, heads, scale)) * m[2]
        y = layer_norm(x, eps) * w[b + 'norm3.weight'] + w[b + 'norm3.bias']
        q = rms(w.linear(c + 'q', y), w[c + 'norm_q.weight'], eps)
        k = rms(w.linear(c + 'k', self.text), w[c + 'norm_k.weight'], eps)
        x = x + w.linear(c + 'o', attend(q, k, w.linear(c + 'v', self.text), heads, scale))
        y = layer_norm(x, eps) * (1 + m[4]) + m[3]
        return x + w.linear(b + 'ffn.2', gelu(w.linear(b + 'ffn.0', y))) * m[5]

    def forward(self, x, t, first):
        """x [f, C, H, W] -> flow of the same shape; writes the cache."""
        w, (p, q), (h, v) = self.w, self.patch, self.grid
        f = len(x)
        tokens = x.reshape(f, self.channels, h, p, v, q).transpose(0, 2, 4, 1, 3, 5).reshape(f * h * v, -1)
        y = tokens @ w['patch_embedding.weight'].reshape(self.d, -1).T + w['patch_embedding.bias']
        half = self.freq_dim // 2
        angle = t * 10000.0 ** (-np.arange(half) / half)
        e = w.linear('time_embedding.2', silu(w.linear('time_embedding.0', np.concatenate([np.cos(angle), np.sin(angle)]))))
        e0 = w.linear('time_projection.1', silu(e)).reshape(6, self.d)
        for n in range(self.layers):
            y = self.block(n, y, e0, first, f)
        m = w['head.modulation'][0] + e
        o = w.linear('head.head', layer_norm(y, self.eps) * (1 + m[1]) + m[0])
        return o.reshape(f, h, v, p, q, self.channels).transpose(0, 5, 1, 3, 2, 4).reshape(x.shape)


def dit(path, rng, model, ffn, text_len, text_real, chunk, chunks, noise, shift, positions, misalign):
    sigma = [shift * (1 - i / 1000) / (1 + (shift - 1) * (1 - i / 1000)) for i in range(1000)]
    steps = [1000 * sigma[1000 - p] for p in positions]
    context = np.zeros((text_len, model.w.f32['text_embedding.0.weight'].shape[1]), np.float32)
    context[:text_real] = rng.standard_normal((text_real, context.shape[1]))
    model.set_text(context.astype(np.float64))
    t = model.w.named() | {'in.context': context, 'sched.sigmas': np.array(sigma, np.float32),
                           'sched.steps': np.array(steps, np.float32)}
    x0 = 0.0
    for c in range(chunks):
        for j, step in enumerate(steps):
            draw = rng.standard_normal((chunk, model.channels, *model.size)).astype(np.float32)
            x = (1 - step / 1000) * x0 + step / 1000 * draw if j else draw.astype(np.float64)
            flow = model.forward(x, step, c * chunk)
            x0 = x - step / 1000 * flow
            t |= {f'chunk{c}.noise{j}': draw, f'chunk{c}.flow{j}': flow.astype(np.float32)}
        t[f'chunk{c}.latent'] = x0.astype(np.float32)
        model.forward(x0, noise, c * chunk)
    for n in range(model.layers):
        seen = [model.cache[n][f] for f in model.visible(chunks * chunk)]
        for name, part in zip('kv', zip(*seen)):
            t[f'final.kv{n}.{name}'] = np.concatenate(part).reshape(-1, model.heads, model.d // model.heads).astype(np.float32)
    save(path, t, dict(kind='causal DiT, NumPy float64', dim=model.d, ffn_dim=ffn, num_heads=model.heads, num_layers=model.layers,
                       text_dim=context.shape[1], text_len=text_len, freq_dim=model.freq_dim, latent_h=model.size[0],
                       latent_w=model.size[1], frames_per_chunk=chunk, chunks=chunks, local_attn_frames=model.window,
                       sink_frames=model.sink, context_noise=noise, shift=shift, eps=model.eps), misalign)


# ---- light forcing, section 10 ----------------------------------------------------------------

def hsa_case(rng, c, tensors):
    f, ft, name, window = c['frames_per_chunk'], c['frame_tokens'], c['name'], c['window']
    visible = [(i + 1) * f for i in range(c['frames'] // f)]
    capped = [min(v, window) if window > 0 else v for v in visible]
    beta = (c['sparsity_base'] - c['sparsity']) * sum(capped[1:]) / sum(n / math.sqrt(v) for n, v in zip(capped[1:], visible[1:]))
    share = [0.0] + [c['sparsity_base'] - beta / math.sqrt(v) for v in visible[1:]]
    tensors[name + '.sparsity'] = np.array(share, np.float32)
    for i in c['chunks']:
        shape = capped[i] * ft, c['heads'], c['head_dim']
        walk = np.cumsum(rng.standard_normal(shape) * 0.35, 0)
        k = ((walk - walk.mean(0)) / walk.std() + 0.5 * rng.standard_normal(shape)).astype(np.float32)
        q = (k[-f * ft:] * 0.7 + rng.standard_normal((f * ft, *shape[1:]))).astype(np.float32)
        v = rng.standard_normal(shape).astype(np.float32)
        blocks, out = hsa_attend(*(x.astype(np.float64) for x in (q, k, v)), share[i], c)
        tensors |= {f'{name}.chunk{i}.{n}': x for n, x in (('q', q), ('k', k), ('v', v), ('out', out.astype(np.float32)),
                                                          ('blocks', blocks.astype(np.int32)))}


def hsa_attend(q, k, v, share, c):
    f, ft, size = c['frames_per_chunk'], c['frame_tokens'], c['block']
    frames, per = len(k) // ft, -(-ft // size)
    past = frames - f

    def cut(n):
        return [slice(i * ft + b * size, min(i * ft + (b + 1) * size, (i + 1) * ft)) for i in range(n) for b in range(per)]

    def best(score, n):  # ties to the lower index
        return np.sort(np.argsort(-score, kind='stable')[:n])

    keep = max(1, math.floor((1 - share) * frames * per + 1e-9))
    chosen, out = [], np.zeros_like(q)
    for h in range(q.shape[1]):
        key_mean = np.array([k[s, h].mean(0) for s in cut(frames)])
        frame_mean = k[:, h].reshape(frames, ft, -1).mean(1)
        for s in cut(f):
            mean = q[s, h].mean(0)
            allowed = np.ones(frames, bool)
            if past > c['keep_frames']:
                middle = np.arange(c['keep_sink'], past - c['keep_near'])
                allowed[middle] = False
                wanted = c['keep_frames'] - c['keep_sink'] - c['keep_near']
                allowed[middle[best(frame_mean[middle] @ mean, wanted)]] = True
            score = np.where(np.repeat(allowed, per), key_mean @ mean, -np.inf)
            blocks = best(score, min(keep, int(allowed.sum()) * per))
            chosen.append(blocks)
            rows = np.concatenate([np.arange(cut(frames)[b].start, cut(frames)[b].stop) for b in blocks])
            out[s, h] = softmax(q[s, h] @ k[rows, h].T / math.sqrt(q.shape[2])) @ v[rows, h]
    return np.array(chosen).reshape(q.shape[1], f * per, -1), out


def hsa(path, rng, cases, misalign):
    tensors = {}
    keys = ('name heads head_dim frame_tokens block frames_per_chunk frames window sparsity sparsity_base keep_frames '
            'keep_sink keep_near chunks').split()
    cases = [dict(zip(keys, c)) for c in cases]
    for c in cases:
        hsa_case(rng, c, tensors)
    save(path, tensors, dict(kind='Light Forcing CAG + HSA', cases=cases), misalign)


# ---- decoders, section 11 ---------------------------------------------------------------------

def conv(x, weight, bias=None, stride=1):
    """x [T, C, H, W]; weight [out, C, (kt,) k, k], causal in time, zeros around; stride 2 pads right and bottom only."""
    weight = weight if weight.ndim == 5 else weight[:, :, None]
    _, _, kt, k, _ = weight.shape
    t, _, h, w = x.shape
    side = (k // 2, k // 2) if stride == 1 else (0, 1)
    x = np.pad(x, ((kt - 1, 0), (0, 0), side, side))
    y = sum(np.einsum('nchw,oc->nohw', x[a:a + t, :, i:i + h:stride, j:j + w:stride], weight[:, :, a, i, j])
            for a in range(kt) for i in range(k) for j in range(k))
    return y if bias is None else y + bias[:, None, None]


def double(x):
    return x.repeat(2, 2).repeat(2, 3)


def taehv(path, rng, channels, widths, frames, size, misalign):
    w = Weights(rng)
    levels = ((3, 7, 8, 1), (9, 13, 14, 2), (15, 19, 20, 2))
    w.layer('decoder.1', widths[0], channels, 3, 3)
    w.layer('decoder.22', 3, widths[3], 3, 3)
    for c, after, (first, grow, to, times) in zip(widths, widths[1:], levels):
        for b in range(first, first + 3):
            w.layer(f'decoder.{b}.conv.0', c, 2 * c, 3, 3)
            w.layer(f'decoder.{b}.conv.2', c, c, 3, 3)
            w.layer(f'decoder.{b}.conv.4', c, c, 3, 3)
        w.layer(f'decoder.{grow}.conv', times * c, c, 1, 1, bias=False)
        w.layer(f'decoder.{to}', after, c, 3, 3, bias=False)

    def apply(name, x):
        return conv(x, w[name + '.weight'], w[name + '.bias'] if name + '.bias' in w else None)

    def relu(x):
        return np.maximum(x, 0)

    latent = rng.standard_normal((frames, channels, *size)).astype(np.float32)
    x = relu(apply('decoder.1', 3 * np.tanh(latent.astype(np.float64) / 3)))
    for c, (first, grow, to, times) in zip(widths, levels):
        for b in range(first, first + 3):
            past = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
            y = relu(apply(f'decoder.{b}.conv.0', np.concatenate([x, past], 1)))
            x = relu(apply(f'decoder.{b}.conv.4', relu(apply(f'decoder.{b}.conv.2', y))) + x)
        y = apply(f'decoder.{grow}.conv', double(x))
        x = apply(f'decoder.{to}', y.reshape(len(y) * times, c, *y.shape[2:]))
    x = apply('decoder.22', relu(x))
    save(path, w.named() | {'latent': latent, 'frames': x.astype(np.float32)},
         dict(kind='TAEHV decoder, NumPy float64', channels=list(widths)), misalign)


class WanVae:
    """Whole films at once, which the streaming rules must equal."""

    UP = (('R', 4), ('R', 4), ('R', 4), ('both', 0), ('R', 4), ('R', 4), ('R', 4), ('both', 0),
          ('R', 2), ('R', 2), ('R', 2), ('space', 0), ('R', 1), ('R', 1), ('R', 1))
    DOWN = (('R', 1), ('R', 1), ('space', 0), ('R', 2), ('R', 2), ('both', 0), ('R', 4), ('R', 4), ('both', 0), ('R', 4), ('R', 4))

    def __init__(self, rng, d):
        w = self.w = Weights(rng)
        w.layer('conv2', 16, 16, 1, 1, 1)
        w.layer('decoder.conv1', 4 * d, 16, 3, 3, 3)
        self.middle('decoder', 4 * d)
        c = self.rows('decoder.upsamples', self.UP, 4 * d, d, lambda c: c // 2, lambda c: 2 * c)
        self.head('decoder.head', c, 3)
        w.layer('encoder.conv1', d, 3, 3, 3, 3)
        c = self.rows('encoder.downsamples', self.DOWN, d, d, lambda c: c, lambda c: c)
        self.middle('encoder', c)
        self.head('encoder.head', c, 32)
        w.layer('conv1', 32, 32, 1, 1, 1)

    def rows(self, name, plan, c, d, resampled, timed):
        for i, (kind, factor) in enumerate(plan):
            n = f'{name}.{i}'
            if kind == 'R':
                self.residual(n, c, factor * d)
                c = factor * d
                continue
            self.w.layer(n + '.resample.1', resampled(c), c, 3, 3)
            if kind == 'both':
                self.w.layer(n + '.time_conv', timed(c), c, 3, 1, 1)
            c = resampled(c)
        return c

    def residual(self, n, a, b):
        self.w.gain(n + '.residual.0.gamma', a, 1, 1, 1)
        self.w.layer(n + '.residual.2', b, a, 3, 3, 3)
        self.w.gain(n + '.residual.3.gamma', b, 1, 1, 1)
        self.w.layer(n + '.residual.6', b, b, 3, 3, 3)
        if a != b:
            self.w.layer(n + '.shortcut', b, a, 1, 1, 1)

    def middle(self, part, c):
        self.residual(part + '.middle.0', c, c)
        self.w.gain(part + '.middle.1.norm.gamma', c, 1, 1)
        self.w.layer(part + '.middle.1.to_qkv', 3 * c, c, 1, 1)
        self.w.layer(part + '.middle.1.proj', c, c, 1, 1)
        self.residual(part + '.middle.2', c, c)

    def head(self, n, c, out):
        self.w.gain(n + '.0.gamma', c, 1, 1, 1)
        self.w.layer(n + '.2', out, c, 3, 3, 3)

    def conv(self, n, x, stride=1):
        return conv(x, self.w[n + '.weight'], self.w[n + '.bias'], stride)

    def norm(self, n, x):
        length = np.maximum(np.sqrt((x * x).sum(1, keepdims=True)), 1e-12)
        return x / length * math.sqrt(x.shape[1]) * self.w[n + '.gamma'].reshape(1, -1, 1, 1)

    def run_residual(self, n, x):
        y = self.conv(n + '.residual.2', silu(self.norm(n + '.residual.0', x)))
        y = self.conv(n + '.residual.6', silu(self.norm(n + '.residual.3', y)))
        return y + (self.conv(n + '.shortcut', x) if n + '.shortcut.weight' in self.w else x)

    def run_middle(self, part, x):
        x = self.run_residual(part + '.middle.0', x)
        n, (t, c, h, w) = part + '.middle.1', x.shape
        q, k, v = self.conv(n + '.to_qkv', self.norm(n + '.norm', x)).reshape(t, 3, c, h * w).transpose(1, 0, 3, 2)
        y = softmax(q @ k.transpose(0, 2, 1) / math.sqrt(c)) @ v
        x = x + self.conv(n + '.proj', y.transpose(0, 2, 1).reshape(x.shape))
        return self.run_residual(part + '.middle.2', x)

    def run_head(self, n, x):
        return self.conv(n + '.2', silu(self.norm(n + '.0', x)))

    def decode(self, z):
        x = self.run_middle('decoder', self.conv('decoder.conv1', self.conv('conv2', z)))
        for i, (kind, _) in enumerate(self.UP):
            n = f'decoder.upsamples.{i}'
            if kind == 'R':
                x = self.run_residual(n, x)
                continue
            if kind == 'both':  # the first frame goes by, and is not remembered
                y = self.conv(n + '.time_conv', x[1:])
                x = np.concatenate([x[:1], y.reshape(len(y) * 2, x.shape[1], *x.shape[2:])])
            x = self.conv(n + '.resample.1', double(x))
        return self.run_head('decoder.head', x)

    def encode(self, x):
        x = self.conv('encoder.conv1', x)
        for i, (kind, _) in enumerate(self.DOWN):
            n = f'encoder.downsamples.{i}'
            if kind == 'R':
                x = self.run_residual(n, x)
                continue
            x = self.conv(n + '.resample.1', x, stride=2)
            if kind == 'both':  # the first frame goes by, and is remembered
                x = np.concatenate([x[:1], self.conv(n + '.time_conv', x)[2::2]])
        return self.conv('conv1', self.run_head('encoder.head', self.run_middle('encoder', x)))[:, :16]


def wan_vae(path, rng, d, size, chunks, encode_frames, misalign):
    vae = WanVae(rng, d)
    mean, std = (np.array(v).reshape(1, 16, 1, 1) for v in (MEAN, STD))
    latent = rng.standard_normal((sum(chunks), 16, *size)).astype(np.float32)
    frames = vae.decode(latent.astype(np.float64) * std + mean).astype(np.float32)
    t = vae.w.named()
    first = picture = 0
    for i, n in enumerate(chunks):
        end = 1 + 4 * (first + n - 1)
        t |= {f'chunk{i}.latent': latent[first:first + n], f'chunk{i}.frames': frames[picture:end]}
        first, picture = first + n, end
    film = rng.uniform(-1, 1, (encode_frames, 3, 8 * size[0], 8 * size[1])).astype(np.float32)
    t |= {'encode.frames': film, 'encode.latent': ((vae.encode(film.astype(np.float64)) - mean) / std).astype(np.float32)}
    save(path, t, dict(kind='Wan 2.1 causal 3-D VAE, NumPy float64', dim=d, latent_h=size[0], latent_w=size[1]), misalign)


def main():
    folder, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1

    def at(name):
        return f'{folder}/odd_{name}.safetensors', np.random.default_rng(seed)

    umt5(*at('umt5'), vocab=50, d=24, a=36, ffn=40, heads=3, layers=2, buckets=32, far=128, eps=1e-6, lengths=[150, 1, 77],
         misalign=1)
    path, rng = at('dit')
    model = Dit(rng, d=48, ffn=50, heads=3, layers=2, text_dim=12, freq_dim=32, channels=4, size=(6, 10), patch=(2, 2),
                window=7, sink=1, eps=1e-5)
    dit(path, rng, model, ffn=50, text_len=9, text_real=4, chunk=2, chunks=5, noise=50, shift=3.0,
        positions=[1000, 700, 300], misalign=2)
    hsa(*at('hsa'), cases=[('short', 1, 20, 5, 16, 2, 20, 20, .5, .6, 4, 1, 1, [1, 5, 9]),
                           ('one', 2, 24, 33, 7, 1, 12, 5, .6, .7, 2, 0, 1, [1, 3, 11]),
                           ('open', 1, 8, 16, 16, 3, 24, -1, .9, .95, 3, 2, 1, [1, 7])], misalign=4)
    taehv(*at('taehv'), channels=4, widths=[7, 5, 3, 3], frames=3, size=(1, 3), misalign=6)
    wan_vae(*at('wan_vae'), d=3, size=(1, 2), chunks=[1, 2, 1], encode_frames=5, misalign=2)


if __name__ == '__main__':
    main()
