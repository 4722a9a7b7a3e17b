# SPDX-License-Identifier: Apache-2.0
"""What sparse attention costs in quality, policy by policy:

    python3 tools/eval/ablation.py --model models/demo --out DIR [--name demo-ablation] [--count 208]

Every policy makes the same clips (prompts, noise) as dense attention does: seven chunks, the horizon that Chunk-Aware
Growth is planned for. Sparsity is the share of visible key blocks that a query block of chunks 1 to 6 does not read.
topk has one budget for all chunks, topk_cag grows it, hsa has the frame stage as well; window reads the sink and the
newest blocks, random any; forced reads the sink, the last two frames and its own chunk. dense_again is dense attention
through the masked kernel (what rounding alone does), other_noise another clip of the same prompt.

Per policy: PSNR to the dense clip (chunks 1 to 6, mean over clips and its standard error), SSIM of luma, adherence by the
judge, the share dropped, and the paired distance to hsa of the same budget. Writes OUT/NAME.json, a bench result.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "train"))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

import nets  # noqa: E402
from classify import HEADS, Judge  # noqa: E402
from rollout import sample  # noqa: E402
from runtime import CUDA, DEVICE, elapsed, load_weights, log  # noqa: E402
from score import CHUNK, JUDGED_CHUNKS, Metrics, Model, scenes_for, write  # noqa: E402
from sparse import Policy, Sparse, token_mask  # noqa: E402
from text import Tokenizer  # noqa: E402

CHUNKS = 7
LEVELS = (.85, .70, .80, .90)
GROWN = {.70: .80, .80: .90, .85: .95, .90: .98}  # s_base of each s_target
SSIM_EVERY = 6  # frames


class _All(Sparse):
    """Dense attention through the masked kernel."""

    def __call__(self, layer: int, q: Tensor, k: Tensor) -> Tensor | None:
        blocks = k.shape[1] // self.policy.block
        if k.shape[1] == q.shape[1]:
            return None
        use = torch.ones(q.shape[0], q.shape[2], q.shape[1] // self.policy.block, blocks, dtype=torch.bool, device=q.device)
        return token_mask(use, self.policy)


def policies() -> dict[str, Policy]:
    """By name, the most wanted first: a run that is cut short keeps what it has."""
    out: dict[str, Policy] = {}
    for s in LEVELS:
        n = f"{round(100 * s)}"
        out |= {f"hsa{n}": Policy("hsa", s, GROWN[s]), f"topk{n}": Policy("topk", s, s),
                f"topk_cag{n}": Policy("topk", s, GROWN[s]), f"random{n}": Policy("random", s, s),
                f"window{n}": Policy("window", s, s)}
        if s == LEVELS[0]:
            out["forced"] = Policy("window")
    return out


@dataclass
class Result:
    """What one policy made of all clips."""

    psnr: Tensor  # [N] dB to dense
    ssim: Tensor  # [N]
    right: Tensor  # [N] share of attributes right, 0..1
    dropped: float


def load_shipped(folder: str) -> Model:
    """The model of a folder with a manifest; its autoencoder has a decoder only."""
    with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as f:
        manifest = json.load(f)
    paths = {k: [os.path.join(folder, name) for name in manifest[k]["files"]] for k in ("dit", "text", "decoder")}
    tokens = Tokenizer(os.path.join(folder, manifest["tokenizer"]["file"]))
    t5, dit = nets.build(len(tokens), DEVICE, manifest["dit"]["layers"])
    t5.load_state_dict(load_weights(*paths["text"]))
    dit.load_state_dict(load_weights(*paths["dit"]))
    return Model(nets.autoencoder(load_weights(*paths["decoder"]), DEVICE), t5.eval(), dit.eval(), tokens)


def _blur(x: Tensor) -> Tensor:
    g = torch.exp(-(torch.arange(11, device=x.device) - 5.) ** 2 / (2 * 1.5 ** 2))
    g = g / g.sum()
    return F.conv2d(F.conv2d(x, g.view(1, 1, 1, -1)), g.view(1, 1, -1, 1))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Of luma pictures [N, 1, H, W] in 0..1, one value each: Gaussian windows of 11, as published."""
    ma, mb = _blur(a), _blur(b)
    va, vb, cov = _blur(a * a) - ma * ma, _blur(b * b) - mb * mb, _blur(a * b) - ma * mb
    s = (2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma * ma + mb * mb + 1e-4) * (va + vb + 9e-4))
    return s.mean((1, 2, 3))


def compare(video: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR and SSIM per clip of pictures [N, F, 3, H, W] in 0..255, the first chunk left out."""
    luma = torch.tensor([.2126, .7152, .0722], device=video.device).view(1, 3, 1, 1)
    psnr, like = [], []
    for a, b in zip(video[:, CHUNK:], dense[:, CHUNK:], strict=True):
        square = (a.float() - b.float()).pow(2).mean() / 255 ** 2
        psnr.append(-10 * torch.log10(square.clamp(min=1e-9)))
        ya, yb = ((v[::SSIM_EVERY].float() / 255 * luma).sum(1, keepdim=True) for v in (a, b))
        like.append(ssim(ya, yb).mean())
    return torch.stack(psnr), torch.stack(like)


class Ablation:
    """The clips that all policies share."""

    def __init__(self, model: Model, judge: Judge, count: int, batch: int, chunks: int) -> None:
        self.model, self.judge, self.batch, self.chunks = model, judge, batch, chunks
        scenes, texts = zip(*(scenes_for(count // 2, held, 71 + held) for held in (False, True)), strict=True)
        self.scenes, self.prompts = [*scenes[0], *scenes[1]], [[t] * chunks for part in texts for t in part]
        self.dense = self.make(None)

    def make(self, mask_of: Sparse | None, seed: int = 5) -> Tensor:
        """8-bit pictures [N, F, 3, H, W]."""
        m, out = self.model, []
        for i in range(0, len(self.prompts), self.batch):
            z = sample(m.t5, m.dit, m.tokenizer, self.prompts[i:i + self.batch], seed + i, mask_of=mask_of, amp=CUDA)
            out.append(m.frames(z))
        return torch.cat(out)

    def run(self, mask_of: Sparse | None, seed: int = 5) -> Result:
        video = self.dense if mask_of is None else self.make(mask_of, seed)
        looks = [self.judge.right(video, CHUNK * c + 5, self.scenes) for c in JUDGED_CHUNKS if c < self.chunks]
        right = torch.stack([r[k].float() for r in looks for k in HEADS]).mean(0)
        return Result(*(v.cpu() for v in compare(video, self.dense)), right.cpu(),
                      mask_of.dropped() if mask_of is not None else 0.)


def _error(x: Tensor) -> float:
    return x.std().item() / math.sqrt(len(x))


def report(results: dict[str, Result]) -> Metrics:
    dense = results["dense"]
    out: Metrics = {"n": (len(dense.psnr), "count"), "adherence_dense": (100 * dense.right.mean().item(), "percent")}
    for name, r in results.items():
        if name == "dense":
            continue
        loss = 100 * (dense.right - r.right)
        out |= {f"psnr_dense_{name}_db": (r.psnr.mean().item(), "dB"), f"psnr_dense_{name}_se_db": (_error(r.psnr), "dB"),
                f"ssim_dense_{name}": (r.ssim.mean().item(), "ratio"),
                f"adherence_loss_{name}_points": (loss.mean().item(), "points"),
                f"adherence_loss_{name}_se_points": (_error(loss), "points"), f"dropped_{name}": (100 * r.dropped, "percent")}
        level = name[-2:]
        if level.isdigit() and name != f"hsa{level}" and f"hsa{level}" in results:
            less = r.psnr - results[f"hsa{level}"].psnr
            out |= {f"psnr_{name}_minus_hsa_db": (less.mean().item(), "dB"), f"psnr_{name}_minus_hsa_se_db": (_error(less), "dB")}
    for level in {name[-2:] for name in results if name[-2:].isdigit()}:
        best = max(r.psnr.mean().item() for name, r in results.items() if name.endswith(level))
        out[f"psnr_dense_best{level}_db"] = (best, "dB")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder with a manifest")
    parser.add_argument("--out", required=True)
    parser.add_argument("--name", default="demo-ablation")
    parser.add_argument("--judge", default=os.path.join(HERE, "judge.safetensors"))
    parser.add_argument("--count", type=int, default=208, help="clips, half of them of held-out combinations")
    parser.add_argument("--batch", type=int, default=104)
    parser.add_argument("--chunks", type=int, default=CHUNKS)
    parser.add_argument("--seconds", type=float, default=1e9, help="start no policy after so much wall time")
    parser.add_argument("--only", nargs="+", help="names of policies, made in this order")
    parser.add_argument("--tuned", action="store_true", help="weights trained with sparse attention: psnr_dense_hsa85_tuned_db too")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    if CUDA:
        torch.backends.cudnn.benchmark = True
    judge = Judge().to(DEVICE).eval()
    judge.load_state_dict(load_weights(args.judge))
    run = Ablation(load_shipped(args.model), judge, args.count, args.batch, args.chunks)
    results = {"dense": run.run(None)}
    path = os.path.join(args.out, args.name + ".json")
    todo: dict[str, Sparse] = {name: Sparse(p) for name, p in policies().items()}
    extra = {"dense_again": _All(Policy()), "other_noise": _All(Policy())}
    first = next(iter(todo))
    todo = {first: todo.pop(first), **extra, **todo}
    for name in args.only or todo:
        if elapsed() > args.seconds:
            break
        mask_of = todo[name]
        r = results[name] = run.run(mask_of, 1000005 if name == "other_noise" else 5)
        log(f"{name}: {r.psnr.mean():.2f} dB +- {_error(r.psnr):.2f}, ssim {r.ssim.mean():.4f}, right {100 * r.right.mean():.2f} %,",
            f"dropped {100 * r.dropped:.1f} %")
        metrics = report(results)
        if args.tuned and "psnr_dense_hsa85_db" in metrics:
            metrics["psnr_dense_hsa85_tuned_db"] = metrics["psnr_dense_hsa85_db"]
        write(path, args.name, metrics)


if __name__ == "__main__":
    main()
