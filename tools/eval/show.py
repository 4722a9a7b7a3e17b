# SPDX-License-Identifier: Apache-2.0
"""Pictures and a video that the engine itself makes of the demo model:

    python3 tools/eval/show.py --rollout BUILD/tools/lightforced-rollout --model models/demo --out docs

OUT/demo-prompts.jpg: a row per prompt, 5 s of it from left to right. OUT/demo-minutes.jpg: one stream of three minutes, a row per
prompt, four switches. OUT/demo-switches.jpg: a row per switch, the pictures around it. OUT/demo.webm: 20 s (VP9; needs ffmpeg).
With --before FOLDER, another model's: OUT/demo-before-after.jpg, what was wrong with the first version (models/demo
of commit 5883cf2), in pairs of rows, FOLDER's above.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "train"))

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402

import pictures  # noqa: E402
from engine import Clip, Engine  # noqa: E402
from score import CHUNK, PROMPTS  # noqa: E402

SEED = 7
STORY = ["a red hot-air balloon drifts left over green hills at noon under a clear sky",
         "a red hot-air balloon drifts left over snowy mountains at sunset while snow falls",
         "a yellow bird glides right over snowy mountains at dawn under a clear sky",
         "a turquoise sailboat sails right on the sea at night under a clear sky",
         "an orange airship cruises left over desert dunes at noon in the rain"]
STORY_CHUNKS = 48  # of each prompt
CLIP = [(0, "a red hot-air balloon drifts left over green hills at noon under a clear sky"),
        (7, "a red hot-air balloon drifts left over green hills at sunset under a clear sky"),
        (13, "a red hot-air balloon drifts left over snowy mountains at sunset while snow falls"),
        (20, "a yellow paper plane glides right over the sea at night under a clear sky")]
CLIP_CHUNKS = 27
FAULTS = [  # of the first version; the last changes its subject
    [(0, "a red hot-air balloon drifts left over snowy mountains at sunset while snow falls")],
    [(0, "an orange airship flies fast left over mountains at midnight")],
    [(0, "a white bird glides left over alpine peaks at sunrise")],
    [(0, "a purple bird flies right over the ocean at night under a clear sky")],
    [(0, "a yellow balloon flies left over meadows at night while snow falls")],
    [(0, "a pink balloon floats slowly right over sand dunes at sunset")],
    [(0, "a yellow paper plane glides right over green hills at noon"), (4, "a red bird flies right over green hills at noon")]]
PROMPT_FRAMES = [3, 9, 20, 32, 45, 82]
SWITCH_FRAMES = [-2, 4, 10, 16, 22, 28, 40]  # from the switch


def save(path: str, rows: Tensor, scale: float) -> None:
    """rows [rows, columns, 3, H, W] in 0..1 as one JPEG."""
    sheet = pictures.sheet(rows, scale)
    Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()).save(path, quality=84, optimize=True)


def show_prompts(engine: Engine, path: str, prompts: list[str]) -> None:
    rows = engine.videos(Clip([(0, p)], 7, SEED + i, PROMPT_FRAMES) for i, p in enumerate(prompts))
    save(path, torch.stack(list(rows)), .625)


def show_faults(before: Engine, after: Engine, path: str) -> None:
    rows = []
    for i, prompts in enumerate(FAULTS):
        switch = CHUNK * prompts[-1][0]
        wanted = [switch + f for f in SWITCH_FRAMES[:-1]] if switch else PROMPT_FRAMES
        rows += [engine.frames(Clip(prompts, 7, SEED + i, wanted)) for engine in (before, after)]
    save(path, torch.stack(rows), .625)


def show_story(engine: Engine, folder: str, story: list[str], each: int) -> None:
    span, prompts = each * CHUNK, [(i * each, p) for i, p in enumerate(story)]
    spread = [span * i + 40 + j * (span - 48) // 7 for i in range(len(story)) for j in range(8)]
    near = [span * i + j for i in range(1, len(story)) for j in SWITCH_FRAMES]
    rows = engine.frames(Clip(prompts, len(story) * each, SEED, spread + near))
    save(os.path.join(folder, "demo-minutes.jpg"), rows[:len(spread)].unflatten(0, (len(story), 8)), .5)
    save(os.path.join(folder, "demo-switches.jpg"), rows[len(spread):].unflatten(0, (len(story) - 1, len(SWITCH_FRAMES))), .5625)


def show_clip(engine: Engine, path: str, prompts: list[tuple[int, str]], chunks: int) -> None:
    with tempfile.TemporaryDirectory() as work:
        video = os.path.join(work, "video.y4m")
        engine.make(Clip(prompts, chunks, SEED, []), video)
        subprocess.run(["ffmpeg", "-y", "-loglevel", "error", "-i", video, "-c:v", "libvpx-vp9", "-b:v", "0", "-crf", "33",
                        "-row-mt", "1", "-threads", "2", path], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollout", required=True, help="the built lightforced-rollout")
    parser.add_argument("--model", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--before", metavar="FOLDER", help="another model, to compare with")
    parser.add_argument("--sparsity", help="passed on to the program")
    parser.add_argument("--threads", type=int, default=2, help="of each program")
    parser.add_argument("--workers", type=int, default=1, help="programs at a time")
    parser.add_argument("--only", nargs="+", choices=("prompts", "minutes", "clip"), default=("prompts", "minutes", "clip"))
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    engine = Engine(args)
    if args.before:
        args.model = args.before
        show_faults(Engine(args), engine, os.path.join(args.out, "demo-before-after.jpg"))
    if "clip" in args.only:
        show_clip(engine, os.path.join(args.out, "demo.webm"), CLIP, CLIP_CHUNKS)
    if "prompts" in args.only:
        show_prompts(engine, os.path.join(args.out, "demo-prompts.jpg"), PROMPTS)
    if "minutes" in args.only:
        show_story(engine, args.out, STORY, STORY_CHUNKS)


if __name__ == "__main__":
    main()
