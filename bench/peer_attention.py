# SPDX-License-Identifier: Apache-2.0
"""PyTorch on the same card at the shapes of Wan 1.3B: attention of a chunk of 4680 queries over a window of 32760 keys, 12 heads
of 128, bf16, and its linear layers.

    python3 bench/peer_attention.py [--repeats 30] [--no-flex]

Prints one JSON object: peer_cudnn_dense_tflops (scaled_dot_product_attention, cuDNN), peer_flash_dense_tflops (its FlashAttention),
peer_flex_sparse15_tflops (FlexAttention, compiled, 15 % of the key blocks of 128 of each head and query block drawn at random, all
kept whole: no mask inside blocks; FLOP of kept blocks), peer_linear_bf16_tflops and peer_linear_fp8_tflops (all linears of a
layer, by time). Medians, timed with events, calls one after the other. A peer that fails is null, with the reason on stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

QUERIES, KEYS, HEADS, WIDTH, DENSITY = 4680, 32760, 12, 128, .15
LAYERS = ((1536, 4608), (1536, 1536), (1536, 1536), (1536, 1536), (1536, 8960), (8960, 1536))  # qkv, o, cross q, cross o, ffn


def median_ms(call: Callable[[], object], repeats: int) -> float:
    for _ in range(5):
        call()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    torch.cuda.synchronize()
    return statistics.median(a.elapsed_time(b) for a, b in zip(marks, marks[1:]))


def heads(tokens: int) -> torch.Tensor:
    return torch.randn(1, HEADS, tokens, WIDTH, device="cuda", dtype=torch.bfloat16)


def dense(backend: str, repeats: int) -> float:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    q, k, v = heads(QUERIES), heads(KEYS), heads(KEYS)
    with sdpa_kernel(getattr(SDPBackend, backend)):
        ms = median_ms(lambda: scaled_dot_product_attention(q, k, v), repeats)
    return 4 * QUERIES * KEYS * HEADS * WIDTH / ms / 1e9


def flex(repeats: int) -> float:
    from torch.nn.attention.flex_attention import BlockMask, flex_attention
    size = 128
    rows, columns = -(-QUERIES // size), -(-KEYS // size)
    kept = round(DENSITY * columns)
    # Whole blocks: the ragged last one is never drawn, so kept * size keys is exact.
    order = torch.rand(1, HEADS, rows, columns - 1, device="cuda").argsort(-1)[..., :kept].sort(-1).values.int()
    index = torch.zeros(1, HEADS, rows, columns, device="cuda", dtype=torch.int32)
    index[..., :kept] = order
    count = torch.full((1, HEADS, rows), kept, device="cuda", dtype=torch.int32)
    none = torch.zeros_like(count), torch.zeros_like(index)
    mask = BlockMask.from_kv_blocks(*none, count, index, BLOCK_SIZE=size, seq_lengths=(QUERIES, KEYS))
    call = torch.compile(flex_attention, dynamic=False)
    q, k, v = heads(QUERIES), heads(KEYS), heads(KEYS)
    ms = median_ms(lambda: call(q, k, v, block_mask=mask), repeats)
    return 4 * QUERIES * kept * size * HEADS * WIDTH / ms / 1e9


def linear(fp8: bool, repeats: int) -> float:
    flop, ms = 0.0, 0.0
    one = torch.ones((), device="cuda")
    for inner, outer in LAYERS:
        x = torch.randn(QUERIES if not fp8 else -(-QUERIES // 16) * 16, inner, device="cuda", dtype=torch.bfloat16)
        w = torch.randn(outer, inner, device="cuda", dtype=torch.bfloat16)
        if fp8:
            x8, w8 = x.to(torch.float8_e4m3fn), w.to(torch.float8_e4m3fn).t()
            ms += median_ms(lambda: torch._scaled_mm(x8, w8, one, one, out_dtype=torch.bfloat16), repeats)
        else:
            ms += median_ms(lambda: x @ w.t(), repeats)
        flop += 2 * QUERIES * inner * outer
    return flop / ms / 1e9


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--repeats", type=int, default=30)
    p.add_argument("--no-flex", action="store_true", help="it takes half a minute to compile")
    a = p.parse_args()
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    peers: dict[str, Callable[[], float]] = {
        "peer_cudnn_dense_tflops": lambda: dense("CUDNN_ATTENTION", a.repeats),
        "peer_flash_dense_tflops": lambda: dense("FLASH_ATTENTION", a.repeats),
        "peer_linear_bf16_tflops": lambda: linear(False, a.repeats),
        "peer_linear_fp8_tflops": lambda: linear(True, a.repeats),
        "peer_flex_sparse15_tflops": lambda: flex(a.repeats),
    }
    out: dict[str, float | None] = {}
    for name, measure in peers.items():
        if a.no_flex and "flex" in name:
            continue
        try:
            out[name] = round(measure(), 1)
        except Exception as failure:  # a peer of another PyTorch may be missing: the others still count
            print(f"{name}: {type(failure).__name__}: {str(failure)[:500]}", file=sys.stderr)
            out[name] = None
    print(json.dumps(out | dict(torch=torch.__version__, cudnn=torch.backends.cudnn.version())))


if __name__ == "__main__":
    main()
