# SPDX-License-Identifier: Apache-2.0
"""Scores the demo model and draws its contact sheets, with one command:

    python3 tools/eval/score.py --weights DIR --tokenizer tokenizer.model --tag mix --out DIR [--name demo-model]

DIR holds ae.safetensors, t5.safetensors and dit_TAG_{1,2}.safetensors. Writes OUT/NAME.json (a bench result),
OUT/NAME-prompts.png, OUT/NAME-switch.png and OUT/NAME-minutes.png. All noise is seeded. Adherence is judged on decoded
pictures by a network trained on rendered ones (classify.py); direction also by the measured motion of the ground.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(os.path.dirname(HERE), "train"), os.path.join(os.path.dirname(os.path.dirname(HERE)), "bench")]

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

import attributes  # noqa: E402
import captions  # noqa: E402
import nets  # noqa: E402
import pictures  # noqa: E402
import result  # noqa: E402
from ae import test as test_autoencoder  # noqa: E402
from attributes import SEA, Attributes  # noqa: E402
from classify import GAP, HEADS, Judge, render_scenes, train  # noqa: E402
from rollout import NEVER, RENOISE_ABOVE, STEPS, decode, many_steps, sample  # noqa: E402
from runtime import CUDA, DEVICE, autocast, load_dit, load_weights, log, save_weights  # noqa: E402
from text import Tokenizer  # noqa: E402

CHUNK = 12  # frames
JUDGED_CHUNKS = (2, 4, 6)
Metrics = dict[str, tuple[float, str]]

PROMPTS = [
    "a red hot-air balloon drifts left over snowy mountains at sunset while snow falls",
    "a yellow paper plane glides right over green hills at noon",
    "a white sailboat sails left on the sea at sunset",
    "a blue airship cruises right across desert dunes at dawn in the fog",
    "a green kite dances left above rolling hills at dusk in the rain",
    "a purple bird flies right over the ocean at night under a clear sky",
    "a pink balloon floats slowly right over sand dunes at sunset",
    "an orange zeppelin flies fast left over mountains at midnight",
    "a red sailboat sails right on the ocean in daylight in the rain",
    "a white bird glides left over alpine peaks at sunrise",
    "a purple kite flies right over the desert during the day",
    "a yellow balloon flies left over meadows at night while snow falls"]
STORIES = [
    ["a red hot-air balloon drifts left over green hills at noon", "a red hot-air balloon drifts left over green hills at sunset",
     "a yellow bird flies left over green hills at sunset", "a blue hot-air balloon drifts right over snowy mountains at dawn"],
    ["a white sailboat sails right on the sea at dawn", "a white sailboat sails left on the sea at dawn in the rain",
     "a pink sailboat sails left on the sea at sunset", "a yellow bird flies left over the ocean at night"],
    ["a yellow paper plane glides right over desert dunes during the day",
     "a yellow paper plane glides left over desert dunes during the day", "a green kite flies left over desert dunes at sunset",
     "a green kite flies left over snowy mountains at night"],
    ["an orange airship cruises left over snowy mountains at sunset",
     "an orange airship cruises left over snowy mountains at sunset in the fog",
     "a purple airship cruises left over green hills at noon",
     "a purple paper plane flies right over the sea at noon in the rain"],
    ["a purple bird flies right over meadows at dawn", "a purple bird flies right over meadows at dawn while snow falls",
     "a red bird flies left over mountain peaks during the day", "an orange kite flies left over the ocean at sunset"]]


def _bytes(x: Tensor) -> Tensor:
    return (x * 255).round().byte()


@dataclass
class Model:
    """Everything that makes pictures from prompts."""

    ae: nets.TAEHV
    t5: nets.T5Encoder
    dit: nets.WanDiT
    tokenizer: Tokenizer

    def latents(self, prompts: list[list[str]], seed: int, batch: int = 128, steps: tuple[float, ...] = STEPS,
                renoise_above: float = RENOISE_ABOVE) -> Tensor:
        parts = [sample(self.t5, self.dit, self.tokenizer, prompts[i:i + batch], seed + i, steps=steps, renoise_above=renoise_above,
                        amp=DEVICE.type == "cuda") for i in range(0, len(prompts), batch)]
        return torch.cat(parts)

    def frames(self, latents: Tensor) -> Tensor:
        """8-bit pictures, which let a few hundred clips stay in memory."""
        parts = [_bytes(decode(self.ae, z, amp=DEVICE.type == "cuda")) for z in latents.split(16)]
        return torch.cat(parts)

    def video(self, prompts: list[list[str]], seed: int, **how: object) -> Tensor:
        """[streams, 12 * chunks, 3, 144, 256] in 0..255"""
        return self.frames(self.latents(prompts, seed, **how))


def load(directory: str, tokenizer: str, tag: str, layers: int = 10) -> Model:
    tokens = Tokenizer(tokenizer)
    t5, dit = nets.build(len(tokens), DEVICE, layers)
    ae = nets.autoencoder(load_weights(os.path.join(directory, "ae.safetensors")), DEVICE)
    t5.load_state_dict(load_weights(os.path.join(directory, "t5.safetensors")))
    dit.load_state_dict(load_dit(directory, tag))
    return Model(ae, t5.eval(), dit.eval(), tokens)


def scenes_for(count: int, held_out: bool, seed: int) -> tuple[list[Attributes], list[str]]:
    """Scenes and a full caption of each."""
    rng = random.Random(seed)
    scenes = [attributes.sample(rng, held_out) for _ in range(count)]
    return scenes, [captions.describe(s, rng) for s in scenes]


def _mean(right: dict[str, Tensor]) -> dict[str, float]:
    each = {k: right[k].float().mean().item() for k in HEADS}
    return each | {"all": sum(each.values()) / len(HEADS)}


def _judge_chunks(judge: Judge, video: Tensor, scenes: list[Attributes], chunks: tuple[int, ...]) -> dict[str, float]:
    looks = [judge.right(video, CHUNK * c + 5, scenes) for c in chunks]
    return _mean({k: torch.stack([r[k] for r in looks]) for k in HEADS})


def _sharpness(video: Tensor) -> float:
    """Mean absolute horizontal gradient of pictures in 0..255, on the scale of 0..1."""
    each = [(v[..., 1:].float() - v[..., :-1].float()).abs().mean() for v in video.split(8)]
    return (sum(each) / len(each) / 255).item()


def _border_flicker(video: Tensor) -> float:
    """Change from picture to picture across the chunks' borders over that inside of chunks."""
    parts = [(v[:, 1:].float() - v[:, :-1].float()).abs().mean((0, 2, 3, 4)) for v in video.split(8)]
    step = torch.stack(parts).mean(0)
    border = torch.arange(len(step), device=step.device) % CHUNK == CHUNK - 1
    return (step[border].mean() / step[~border].mean()).item()


def ground_follows(pairs: Tensor, scenes: list[Attributes]) -> list[bool]:
    """For clips without sea: whether the near ground moves against the asked heading, as it must when the camera goes
    along. pairs [N, 2, 3, H, W], GAP frames apart; the motion is the shift of the lowest rows that matches best."""
    use = [i for i, s in enumerate(scenes) if s["ter"] != SEA]
    strip = pairs[use, :, :, 112:].float().mean(2)
    a, b = (strip - strip.mean(-1, keepdim=True)).unbind(1)
    limit = 18
    scores = [-(a[..., limit:256 - limit] - b[..., limit + d:256 - limit + d]).abs().mean((1, 2))
              for d in range(-limit, limit + 1)]
    rightwards = torch.stack(scores, 1).argmax(1) > limit
    return [bool(r) != (scenes[i]["dir"] == 1) for r, i in zip(rightwards, use, strict=True)]


def _direction(video: Tensor, scenes: list[Attributes], chunks: tuple[int, ...]) -> float:
    hits = [hit for c in chunks for hit in ground_follows(video[:, [CHUNK * c + 4, CHUNK * c + 4 + GAP]], scenes)]
    return sum(hits) / max(1, len(hits))


def score_adherence(model: Model, judge: Judge, count: int, out: Metrics) -> None:
    for name, held_out, seed in (("trained", False, 41), ("heldout", True, 42)):
        scenes, texts = scenes_for(count, held_out, seed)
        video = model.video([[t] * 7 for t in texts], seed)
        each = _judge_chunks(judge, video, scenes, JUDGED_CHUNKS)
        out[f"adherence_{name}"] = (100 * each.pop("all"), "percent")
        out |= {f"adherence_{name}_{k}": (100 * v, "percent") for k, v in each.items()}
        if held_out:
            continue
        out["direction_accuracy"] = (100 * _direction(video, scenes, JUDGED_CHUNKS), "percent")
        real, through = [], []
        for i in range(0, count, 16):
            picture = render_scenes(scenes[i:i + 16], seed + i, range(CHUNK))
            with autocast():
                through.append(_bytes(model.ae.decode(model.ae.encode(picture)).float().clamp(0, 1)))
            real.append(_bytes(picture))
        out["direction_accuracy_renderer"] = (100 * _direction(torch.cat(real), scenes, (0,)), "percent")
        target = _sharpness(torch.cat(through))
        out["renoise_above"] = (RENOISE_ABOVE, "timestep")
        out["sharpness_first_chunk"] = (_sharpness(video[:, :CHUNK]) / target, "ratio")
        out["sharpness_chunk_6"] = (_sharpness(video[:, 6 * CHUNK:]) / target, "ratio")
        out["border_flicker"] = (_border_flicker(video), "ratio")
        many = model.video([[t] for t in texts], seed, steps=many_steps(24), renoise_above=NEVER)
        out["sharpness_first_chunk_24_steps"] = (_sharpness(many) / target, "ratio")


def score_switch(model: Model, judge: Judge, count: int, out: Metrics) -> None:
    scenes, texts = scenes_for(count, False, 51)
    rng = random.Random(52)
    after = [attributes.change(s, rng) for s in scenes]
    video = model.video([[t] * 4 + [captions.describe(s, rng)] * 4 for t, s in zip(texts, after, strict=True)], 53)
    for late in range(4):
        right = judge.right(video, CHUNK * (4 + late) + 5, after)
        changed = [right[k][i].item() for k in HEADS for i in range(count) if scenes[i][k] != after[i][k]]
        kept = [right[k][i].item() for k in HEADS for i in range(count) if scenes[i][k] == after[i][k]]
        out[f"adherence_switch_{late}"] = (100 * sum(changed) / max(1, len(changed)), "percent")
        out[f"adherence_switch_{late}_kept"] = (100 * sum(kept) / max(1, len(kept)), "percent")


def score_drift(model: Model, judge: Judge, count: int, chunks: int, out: Metrics) -> None:
    scenes, texts = scenes_for(count, False, 31)
    z = model.latents([[t] * chunks for t in texts], 31)
    means = {}
    for name, first in (("5s", 5), ("60s", chunks // 3 - 2), ("180s", chunks - 3)):
        video = model.frames(z[:, 3 * first - 3:3 * first + 9])
        means[name] = _judge_chunks(judge, video, scenes, (1, 2, 3))["all"]
        out[f"adherence_at_{name}"] = (100 * means[name], "percent")
        out[f"sharpness_at_{name}"] = (_sharpness(video[:, CHUNK:]), "mean gradient")
    out["drift_points_180s"] = (100 * (means["5s"] - means["180s"]), "points")


def draw_sheets(model: Model, path: str, chunks: int, story_chunks: int, rows_at_most: int) -> None:
    """Prompts over 5 s; stories with three switches; one prompt over minutes."""
    prompts, stories = PROMPTS[:rows_at_most], STORIES[:rows_at_most]
    video = model.video([[p] * 7 for p in prompts], 0)
    pictures.save(f"{path}-prompts.png", pictures.sheet(video[:, [3, 9, 20, 32, 45, 82]] / 255, .625))
    parts = len(STORIES[0])
    z = model.latents([[s[c // story_chunks] for c in range(parts * story_chunks)] for s in stories], 4)
    video = model.frames(z)
    at = [j * story_chunks * CHUNK + f for j in range(1, parts) for f in (4, 10, 16, 22, 34, 58)]
    at = [5, *(f for f in at if f < video.shape[1])]
    pictures.save(f"{path}-switch.png", pictures.sheet(video[:, at] / 255, .5))
    z = model.latents([[p] * chunks for p in prompts], 3)
    rows = []
    for part in range(6):
        first = min(chunks - 3, max(2, part * chunks // 5))
        rows.append(model.frames(z[:, 3 * first - 6:3 * first + 3])[:, -6])
    pictures.save(f"{path}-minutes.png", pictures.sheet(torch.stack(rows, 1) / 255, .625))


def write(path: str, bench: str, metrics: Metrics) -> None:
    """A bench result. $COMMIT, where it is set, names the commit: a copy elsewhere may not know its own."""
    more = {k: v for k, v in dict(commit=os.environ.get("COMMIT"), machine=CUDA and torch.cuda.get_device_name(0)).items() if v}
    named: result.Metrics = {k: dict(value=round(v, 4), unit=u) for k, (v, u) in metrics.items()}
    result.write(path, bench, named, f"python3 {os.path.relpath(sys.argv[0], result.ROOT)}", **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--tag", default="mix")
    parser.add_argument("--out", required=True)
    parser.add_argument("--name", default="demo-model")
    parser.add_argument("--count", type=int, default=256, help="prompts per adherence score")
    parser.add_argument("--judge", help="file of a trained judge; made there if it is missing")
    parser.add_argument("--judge-seconds", type=float, default=18)
    parser.add_argument("--no-drift", action="store_true", help="leave out the three minutes")
    parser.add_argument("--toy", action="store_true", help="smallest sizes, to try the program out")
    parser.add_argument("--layers", type=int, default=10)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    path, out, toy = os.path.join(args.out, args.name), {}, args.toy
    model = load(args.weights, args.tokenizer, args.tag, args.layers)
    count, chunks, story = (1, 9, 1) if toy else (args.count, 240, 8)

    def done(what: str) -> None:
        write(path + ".json", args.name, out)
        log(what, {k: round(v, 4) for k, (v, _) in out.items()})

    if args.judge and os.path.exists(args.judge):
        judge = Judge().to(DEVICE).eval()
        judge.load_state_dict(load_weights(args.judge))
    else:
        judge, accuracy = train(*((24, 3.) if toy else (14400, args.judge_seconds)))
        out |= {f"judge_{k}": (100 * v, "percent") for k, v in accuracy.items()}
        if args.judge:
            save_weights(args.judge, judge.state_dict(), dtype=torch.float16)
    scores, _ = test_autoencoder(model.ae, 1 if toy else 48, batch=1 if toy else 4)
    out |= {f"ae_{k}": (v, "count" if k == "n" else "dB") for k, v in scores.items()}
    done("autoencoder")
    score_adherence(model, judge, count, out)
    done("adherence")
    score_switch(model, judge, count, out)
    done("switch")
    if not args.no_drift:
        score_drift(model, judge, max(2, count // 4), chunks, out)
    out["adherence_n"] = (count, "count")
    done("all")
    draw_sheets(model, path, 14 if toy or args.no_drift else 80, story, 1 if toy else 12)


if __name__ == "__main__":
    main()
