# SPDX-License-Identifier: Apache-2.0
"""The convolutions that bench_conv prints, by cuDNN through PyTorch (bf16,
channels_last, cudnn.benchmark), one JSON object a line with both times.

    bench_conv > shapes.json; python3 bench/peer_conv.py shapes.json

The peer's convolution is timed alone: its doubled input, its joined past frames
(time taps as channels where it has two, conv3d where it has three) lie ready, and
phases are output channels; ours doubles, joins and spreads by itself."""
import json
import sys
import time

import torch
import torch.nn.functional as F


def peer(s):
    f, h, w = s["frames"], s["h"] * s["upsample"], s["w"] * s["upsample"]
    k, out, pad = s["k"], s["out"] * s["phases"], s["k"] // 2
    options = {"device": "cuda", "dtype": torch.bfloat16}
    if s["kt"] == 3:
        x = torch.randn(1, s["in"], f + 2, h, w, **options).to(memory_format=torch.channels_last_3d)
        weight = torch.randn(out, s["in"], 3, k, k, **options).to(memory_format=torch.channels_last_3d) / 30
        bias = torch.randn(out, **options)
        return lambda: F.conv3d(x, weight, bias, padding=(0, pad, pad))
    wide = s["in"] * s["kt"]
    x = torch.randn(f, wide, h, w, **options).to(memory_format=torch.channels_last)
    weight = torch.randn(out, wide, k, k, **options).to(memory_format=torch.channels_last) / 30
    bias = torch.randn(out, **options)
    return lambda: F.conv2d(x, weight, bias, padding=pad)


def best_us(call, seconds=0.02):
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    best, calls = 1e30, 3
    for turn in range(4):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        us = (time.perf_counter() - start) / calls * 1e6
        best = min(best, us) if turn else best
        calls = max(1, int(seconds * 1e6 / us))
    return best


def main():
    torch.backends.cudnn.benchmark = True
    total = {}
    with open(sys.argv[1]) as lines, torch.inference_mode():
        for line in lines:
            s = json.loads(line)
            if "name" not in s:
                print(line, end="")
                continue
            us = best_us(peer(s))
            flop = s["us"] * s["tflops"]
            print(json.dumps({"name": s["name"], "frames": s["frames"], "us": s["us"], "cudnn_us": round(us, 1),
                              "tflops": s["tflops"], "cudnn_tflops": round(flop / us, 1)}), flush=True)
            model = s["name"].split()[0]
            ours, theirs = total.get(model, (0, 0))
            total[model] = (ours + s["us"] * s["calls"], theirs + us * s["calls"])
    for model, (ours, theirs) in total.items():
        print(json.dumps({"sum": model, "us": round(ours, 1), "cudnn_us": round(theirs, 1)}))


main()
