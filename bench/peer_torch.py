# SPDX-License-Identifier: Apache-2.0
"""PyTorch doing what the daemon does: the demo model's dense rollout (four passes and the refresh) and its decoder, streamed
chunk by chunk with cached keys, on this machine's CPU. Frames per second of wall time, text encoding left out, nothing
encoded or sent.

    python3 bench/peer_torch.py [--model models/demo] [--seconds 30]

Prints one JSON object {metric: {value, unit}}: peer_torch_fps_f32, peer_torch_fps_bf16 (autocast), peer_torch_fps_avx2 (f32,
ISA limited to AVX2). Needs torch, safetensors, sentencepiece.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
AVX2 = dict(ATEN_CPU_CAPABILITY="avx2", MKL_ENABLE_INSTRUCTIONS="AVX2", ONEDNN_MAX_CPU_ISA="AVX2", DNNL_MAX_CPU_ISA="AVX2")
MODES = {"f32": {}, "bf16": {}, "avx2": AVX2}
PROMPT = "a yellow paper plane glides right over green hills at noon"


def measure(model: str, half: bool, seconds: float) -> float:
    """Frames per second over whole chunks, once the window is full."""
    sys.path.insert(0, os.path.join(ROOT, "tools", "train"))
    import torch
    from safetensors.torch import load_file

    import nets
    from rollout import WINDOW_CHUNKS, Rollout
    from text import Tokenizer

    manifest = json.load(open(os.path.join(model, "manifest.json")))

    def weights(part: str) -> dict[str, torch.Tensor]:
        out: dict[str, torch.Tensor] = {}
        for name in manifest[part]["files"]:
            out.update(load_file(os.path.join(model, name)))
        return {k: v.float() for k, v in out.items()}

    torch.set_grad_enabled(False)
    tokenizer = Tokenizer(os.path.join(model, manifest["tokenizer"]["file"]))
    t5, dit = nets.build(len(tokenizer), torch.device("cpu"))
    t5.load_state_dict(weights("text"))
    dit.load_state_dict(weights("dit"))
    ae = nets.autoencoder(weights("decoder"))
    context = dit.text_embedding(t5(tokenizer.encode([PROMPT]).long()))
    stream, memory = Rollout(dit, 1, torch.device("cpu")), [None] * len(ae.decoder)

    def chunk() -> int:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return ae.decode(stream.chunk(context), memory).shape[1]

    for _ in range(WINDOW_CHUNKS + 1):
        chunk()
    start, frames = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        frames += chunk()
    return frames / (time.monotonic() - start)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=os.path.join(ROOT, "models", "demo"))
    p.add_argument("--seconds", type=float, default=30)
    p.add_argument("--mode", choices=MODES, help="measure in this process, print the number alone")
    a = p.parse_args()
    if a.mode:
        print(measure(a.model, a.mode == "bf16", a.seconds))
        return
    out = {}
    for mode, env in MODES.items():
        command = [sys.executable, __file__, "--model", a.model, "--seconds", str(a.seconds), "--mode", mode]
        done = subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True, text=True)
        out[f"peer_torch_fps_{mode}"] = dict(value=round(float(done.stdout.split()[-1]), 2), unit="frames/s")
    print(json.dumps(out))


if __name__ == "__main__":
    main()
