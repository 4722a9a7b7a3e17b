# SPDX-License-Identifier: Apache-2.0
"""Scores what the engine itself makes, on any machine:

    python3 tools/eval/engine.py --rollout BUILD/tools/lightforced-rollout --model models/demo --out DIR [--name demo-engine]

Renders trained, held-out and switched prompts through `lightforced-rollout` (with the model's own sparsity unless
`--sparsity` says otherwise) and lets the judge of classify.py look at the pictures. `--drift N` adds N streams of three
minutes, or of `--minutes`. Writes OUT/NAME.json, a bench result, and OUT/NAME-switch.png and OUT/NAME-drift.png.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "train"))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

import attributes  # noqa: E402
import captions  # noqa: E402
import pictures  # noqa: E402
from attributes import VALUES, Attributes  # noqa: E402
from classify import HEADS, Judge  # noqa: E402
from runtime import load_weights, log  # noqa: E402
from score import CHUNK, JUDGED_CHUNKS, Metrics, ground_follows, scenes_for, write  # noqa: E402

RATE = 16  # pictures a second
DRIFT_SECONDS = (5, 60, 180, 600, 1800)


def read_y4m(path: str, frames: list[int]) -> Tensor:
    """The chosen frames of a 4:2:0 limited-range BT.709 file: [len(frames), 3, H, W] in 0..1."""
    with open(path, "rb") as f:
        fields = f.readline().split()
        width, height = (int(next(x for x in fields if x[:1] == k)[1:]) for k in (b"W", b"H"))
        start, luma, size = f.tell(), width * height, width * height * 3 // 2
        out = []
        for n in frames:
            f.seek(start + n * (6 + size) + 6)
            raw = torch.frombuffer(bytearray(f.read(size)), dtype=torch.uint8).float()
            y = (raw[:luma].view(height, width) - 16) / 219
            chroma = (raw[luma:].view(1, 2, height // 2, width // 2) - 128) / 224
            cb, cr = F.interpolate(chroma, scale_factor=2, mode="bilinear")[0]
            r, b = y + 1.5748 * cr, y + 1.8556 * cb
            out.append(torch.stack([r, (y - .2126 * r - .0722 * b) / .7152, b]))
    return torch.stack(out).clamp(0, 1)


@dataclass
class Clip:
    """What the program is to make, and which pictures of it are wanted."""

    prompts: list[tuple[int, str]]  # (chunk from which it holds, text)
    chunks: int
    seed: int
    wanted: list[int]
    more: tuple[str, ...] = ()  # arguments


class Engine:
    """Runs the rollout program."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.base = [args.rollout, "--model", args.model, "--threads", str(args.threads)]
        for name in ("sparsity", "steps", "backend"):
            if getattr(args, name, None):
                self.base += ["--" + name, getattr(args, name)]
        self.workers = args.workers

    def make(self, clip: Clip, path: str) -> None:
        command = [*self.base, *clip.more, "--chunks", str(clip.chunks), "--seed", str(clip.seed), "--out", path]
        for at, text in clip.prompts:
            command += [*(["--at", str(at)] if at else []), "--prompt", text]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def frames(self, clip: Clip) -> Tensor:
        """The wanted pictures."""
        with tempfile.TemporaryDirectory() as work:
            path = os.path.join(work, "video.y4m")
            self.make(clip, path)
            return read_y4m(path, clip.wanted)

    def videos(self, clips: Iterable[Clip]) -> Iterator[Tensor]:
        """The same of each clip, in their order; the workers make some at a time."""
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            yield from pool.map(self.frames, clips)


def _look(chunk: int) -> list[int]:
    """The two pictures of a chunk that the judge compares."""
    return [CHUNK * chunk + 5, CHUNK * chunk + 9]


def _mean(values: list[bool]) -> float:
    return 100 * sum(values) / max(1, len(values))


def score_scenes(engine: Engine, judge: Judge, name: str, scenes: list[Attributes], texts: list[str], seed: int) -> Metrics:
    """What streams show of their scenes, and adherence_NAME of all."""
    hits: dict[str, list[bool]] = {k: [] for k in HEADS}
    moves: list[bool] = []
    wanted = [f for c in JUDGED_CHUNKS for f in _look(c)]
    videos = engine.videos(Clip([(0, text)], 7, seed + i, wanted) for i, text in enumerate(texts))
    for scene, text, video in zip(scenes, texts, videos, strict=True):
        for c in range(len(JUDGED_CHUNKS)):
            pair = video[None, 2 * c:2 * c + 2]
            right = judge.right_pair(pair, [scene])
            for k in HEADS:
                hits[k].append(bool(right[k][0]))
            moves += ground_follows(pair, [scene])
        wrong = [k for k in HEADS if not all(hits[k][-len(JUDGED_CHUNKS):])]
        if wrong:
            log(f"{name}: {', '.join(wrong)} wrong after {text!r}")
    out: Metrics = {f"adherence_{name}_{k}": (_mean(v), "percent") for k, v in hits.items()}
    out |= {f"adherence_{name}": (sum(v for v, _ in out.values()) / len(HEADS), "percent"), f"{name}_n": (len(texts), "count")}
    if name == "trained":
        out["direction_accuracy"] = (_mean(moves), "percent")
    return out


def score_paraphrases(engine: Engine, judge: Judge, seed: int) -> Metrics:
    """Sentences that were written by hand: shapes that no training caption has, with known words and with new ones."""
    out: Metrics = {}
    with open(os.path.join(HERE, "paraphrases.json"), encoding="utf-8") as f:
        kinds: dict[str, list[tuple[str, str]]] = json.load(f)
    for kind, rows in kinds.items():
        scenes = [{k: VALUES[k].index(w) for w in shows.split() for k in HEADS if w in VALUES[k]} for _, shows in rows]
        out |= score_scenes(engine, judge, "paraphrased_" + kind.replace(" ", "_"), scenes, [text for text, _ in rows], seed)
    return out


def score_switches(engine: Engine, judge: Judge, count: int, seed: int, sheet: str) -> Metrics:
    scenes, texts = scenes_for(count, False, seed)
    rng, before, after_chunks, rows = random.Random(seed + 1), 4, 4, []
    changed: list[list[bool]] = [[] for _ in range(after_chunks)]
    kept: list[list[bool]] = [[] for _ in range(after_chunks)]
    wanted = [f for c in range(before, before + after_chunks) for f in _look(c)] + [before * CHUNK - 2]
    after: list[tuple[Attributes, str]] = []
    for old in scenes:
        new = attributes.change(old, rng)
        after.append((new, captions.describe(new, rng)))
    videos = engine.videos(Clip([(0, text), (before, then)], before + after_chunks, seed + i, wanted)
                           for i, (text, (_, then)) in enumerate(zip(texts, after, strict=True)))
    for i, (old, (new, then), video) in enumerate(zip(scenes, after, videos, strict=True)):
        for late in range(after_chunks):
            right = judge.right_pair(video[None, 2 * late:2 * late + 2], [new])
            for k in HEADS:
                (changed if old[k] != new[k] else kept)[late].append(bool(right[k][0]))
                if late == 2 and old[k] != new[k] and not right[k][0]:
                    log(f"switch of clip {i}, seed {seed + i}: {k} wrong two chunks after {then!r}")
        if len(rows) < 12:
            rows.append(video[[-1, 0, 1, 2, 3, 4, 6]])
    pictures.save(sheet, pictures.sheet(torch.stack(rows), .625))
    out: Metrics = {f"adherence_switch_{j}": (_mean(v), "percent") for j, v in enumerate(changed)}
    out |= {f"adherence_switch_{j}_kept": (_mean(v), "percent") for j, v in enumerate(kept)}
    return out | {"switch_changed_n": (len(changed[0]), "count")}


def score_sharpness(engine: Engine, count: int, seed: int) -> Metrics:
    """Mean absolute horizontal gradient of first chunks, in levels of 255, as the model samples and with new noise at every step."""
    out: Metrics = {}
    _, texts = scenes_for(count, False, seed)
    for name, more in (("gradient_first_chunk", ()), ("gradient_first_chunk_renoised", ("--renoise-above", "0"))):
        videos = engine.videos(Clip([(0, text)], 1, seed + i, list(range(CHUNK)), more) for i, text in enumerate(texts))
        out[name] = (255 * sum((v[..., 1:] - v[..., :-1]).abs().mean().item() for v in videos) / count, "levels")
    return out


def score_drift(engine: Engine, judge: Judge, count: int, minutes: int, seed: int, sheet: str) -> Metrics:
    """Adherence and sharpness in the last three chunks before each of DRIFT_SECONDS; what the first has over the last is drift."""
    scenes, texts = scenes_for(count, False, seed)
    seconds = [s for s in DRIFT_SECONDS if s <= 60 * minutes]
    chunks = [c for s in seconds for c in range(s * RATE // CHUNK - 3, s * RATE // CHUNK)]
    wanted = [f for c in chunks for f in _look(c)]
    videos = engine.videos(Clip([(0, text)], chunks[-1] + 1, seed + i, wanted) for i, text in enumerate(texts))
    hits: dict[int, list[bool]] = {s: [] for s in seconds}
    edges, rows = dict.fromkeys(seconds, 0.), []
    for scene, video in zip(scenes, videos, strict=True):
        for s, frames in zip(seconds, video.split(6), strict=True):
            right = judge.right_pair(frames.unflatten(0, (3, 2)), [scene] * 3)
            hits[s] += [bool(hit) for k in HEADS for hit in right[k]]
            edges[s] += 255 * (frames[..., 1:] - frames[..., :-1]).abs().mean().item() / count
        rows.append(video[5::6])
    pictures.save(sheet, pictures.sheet(torch.stack(rows), .625))
    out: Metrics = {f"adherence_at_{s}s": (_mean(v), "percent") for s, v in hits.items()}
    out |= {f"gradient_at_{s}s": (v, "levels") for s, v in edges.items()}
    first, last = (out[f"adherence_at_{s}s"][0] for s in (seconds[0], seconds[-1]))
    return out | {f"drift_points_{seconds[-1]}s": (first - last, "points"), "drift_n": (count, "count")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollout", required=True, help="the built lightforced-rollout")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--name", default="demo-engine")
    parser.add_argument("--judge", default=os.path.join(HERE, "judge.safetensors"))
    parser.add_argument("--sparsity", help="passed on to the program")
    parser.add_argument("--steps", help="passed on to the program")
    parser.add_argument("--backend", help="passed on to the program")
    parser.add_argument("--threads", type=int, default=2, help="of each program")
    parser.add_argument("--workers", type=int, default=1, help="programs at a time")
    parser.add_argument("--count", type=int, default=64, help="prompts per score")
    parser.add_argument("--parts", help="of switches, trained, heldout, paraphrases, sharpness, drift; the result keeps what it has of others")
    parser.add_argument("--drift", type=int, default=0, help="streams that go on for minutes")
    parser.add_argument("--minutes", type=int, default=3, choices=[s // 60 for s in DRIFT_SECONDS if s >= 60], help="that they last")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    torch.set_num_threads(args.threads)
    judge = Judge().eval()
    judge.load_state_dict(load_weights(args.judge))
    path, out = os.path.join(args.out, args.name), {}
    if args.parts and os.path.exists(path + ".json"):
        with open(path + ".json", encoding="utf-8") as f:
            out = {k: (m["value"], m["unit"]) for k, m in json.load(f)["metrics"].items()}
    engine = Engine(args)
    parts = {"switches": lambda: score_switches(engine, judge, args.count, 51, path + "-switch.png"),
             "trained": lambda: score_scenes(engine, judge, "trained", *scenes_for(args.count, False, 41), 41),
             "heldout": lambda: score_scenes(engine, judge, "heldout", *scenes_for(args.count, True, 42), 42),
             "paraphrases": lambda: score_paraphrases(engine, judge, 61),
             "sharpness": lambda: score_sharpness(engine, args.count, 41),
             "drift": lambda: score_drift(engine, judge, args.drift, args.minutes, 31, path + "-drift.png") if args.drift else {}}
    for part in args.parts.split(",") if args.parts else parts:
        out |= parts[part]()
        write(path + ".json", args.name, out)
        log({k: round(v, 2) for k, (v, _) in out.items()})


if __name__ == "__main__":
    main()
