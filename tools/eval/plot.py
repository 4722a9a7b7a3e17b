# SPDX-License-Identifier: Apache-2.0
"""Draws what ablation.py wrote, quality over the share of key blocks that is not read:

    python3 tools/eval/plot.py bench/results/demo-ablation.json [TUNED.json] OUT.svg

Bars are 95 % intervals of the mean over clips. The results of weights that were trained with sparse attention (TUNED) are
hollow. Prints the numbers as a Markdown table. Needs nothing but Python.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from html import escape

POLICIES = [("hsa", "CAG + HSA", "#0072b2"), ("topk_cag", "top-k + CAG", "#56b4e9"), ("topk", "top-k", "#009e73"),
            ("window", "sliding window", "#e69f00"), ("random", "random blocks", "#d55e00"), ("forced", "sink, last two, own", "#444444")]
LEVELS = ("70", "80", "85", "90")
WIDTH, HEIGHT, TOP, LEFT, PANEL, GAP = 860, 380, 78, 56, 340, 72
FROM, TO = 52., 94.  # percent dropped
INK, FAINT = "#222222", "#dddddd"
Metrics = dict[str, float]


@dataclass
class Axis:
    """One panel: where its values go."""

    title: str
    left: int
    low: float
    high: float
    step: float

    def x(self, dropped: float) -> float:
        return self.left + PANEL * (dropped - FROM) / (TO - FROM)

    def y(self, value: float) -> float:
        bottom = HEIGHT - 48
        return bottom - (bottom - TOP) * (value - self.low) / (self.high - self.low)


def text(x: float, y: float, words: str, anchor: str = "middle", size: int = 12, colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def frame(axis: Axis) -> list[str]:
    out = [text(axis.left, TOP - 12, axis.title, "start", 13)]
    count = round((axis.high - axis.low) / axis.step)
    for i in range(count + 1):
        value = axis.low + i * axis.step
        out += [line(axis.left, axis.y(value), axis.left + PANEL, axis.y(value), FAINT),
                text(axis.left - 8, axis.y(value) + 4, f"{value:g}", "end")]
    for share in range(55, 95, 5):
        out.append(text(axis.x(share), HEIGHT - 30, f"{share}"))
    return [*out, text(axis.left + PANEL / 2, HEIGHT - 10, "key blocks not read, %")]


def series(axis: Axis, m: Metrics, policy: str, value: str, error: str, colour: str, hollow: bool) -> list[str]:
    """A policy's points, joined; value and error are names of metrics with {} for the policy and its level."""
    names = [n for n in (policy, *(policy + level for level in LEVELS)) if value.format(n) in m]
    at = [(axis.x(m[f"dropped_{n}"]), m[value.format(n)], 1.96 * m[error.format(n)]) for n in names]
    out = []
    if len(at) > 1:
        path = " ".join(f"{x:.1f},{axis.y(v):.1f}" for x, v, _ in at)
        dash = ' stroke-dasharray="5 4"' if hollow else ""
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>')
    for x, v, e in at:
        out += [line(x, axis.y(v - e), x, axis.y(v + e), colour, 'stroke-width="1.2"'),
                f'<circle cx="{x:.1f}" cy="{axis.y(v):.1f}" r="3.6" fill="{"white" if hollow else colour}" stroke="{colour}"/>']
    return out


def draw(results: list[Metrics]) -> str:
    psnr = Axis("PSNR to the dense clip, dB", LEFT, 15, 40, 5)
    lost = Axis("adherence lost, points", LEFT + PANEL + GAP, -5, 40, 5)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    x = float(LEFT)
    for _, name, colour in POLICIES:
        out += [f'<circle cx="{x:.1f}" cy="24" r="4.5" fill="{colour}"/>', text(x + 10, 28, name, "start")]
        x += 42 + 6.6 * len(name)
    if len(results) > 1:
        out.append(text(LEFT, 48, "filled: trained dense; hollow: trained with sparse attention", "start", 11))
    out += frame(psnr) + frame(lost)
    other = results[0].get("psnr_dense_other_noise_db")
    if other is not None:
        out += [line(psnr.left, psnr.y(other), psnr.left + PANEL, psnr.y(other), "#999999", 'stroke-dasharray="2 3"'),
                text(psnr.left + 4, psnr.y(other) + 13, "another clip, same prompt", "start", 10, "#666666")]
    for i, m in enumerate(results):
        for policy, _, colour in reversed(POLICIES):
            out += series(psnr, m, policy, "psnr_dense_{}_db", "psnr_dense_{}_se_db", colour, i > 0)
            out += series(lost, m, policy, "adherence_loss_{}_points", "adherence_loss_{}_se_points", colour, i > 0)
    return "\n".join([*out, "</svg>", ""])


def table(m: Metrics) -> str:
    """A row per policy and level."""
    rows = ["| policy | not read, % | PSNR to dense, dB | against CAG + HSA, dB | SSIM | adherence lost, points |", "|---|---|---|---|---|---|"]
    for policy, name, _ in POLICIES:
        for n in (policy, *(policy + level for level in LEVELS)):
            if f"dropped_{n}" not in m:
                continue
            level, less = n[-2:], "–"
            if f"psnr_{n}_minus_hsa_db" in m:
                less = f"{m[f'psnr_{n}_minus_hsa_db']:+.2f} ± {1.96 * m[f'psnr_{n}_minus_hsa_se_db']:.2f}"
            rows.append(f"| {name}{' ' + level if level.isdigit() else ''} | {m[f'dropped_{n}']:.1f} "
                        f"| {m[f'psnr_dense_{n}_db']:.2f} ± {1.96 * m[f'psnr_dense_{n}_se_db']:.2f} | {less} "
                        f"| {m[f'ssim_dense_{n}']:.3f} "
                        f"| {m[f'adherence_loss_{n}_points']:.2f} ± {1.96 * m[f'adherence_loss_{n}_se_points']:.2f} |")
    return "\n".join(rows)


def main() -> None:
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    results = []
    for path in sys.argv[1:-1]:
        with open(path, encoding="utf-8") as f:
            results.append({k: v["value"] for k, v in json.load(f)["metrics"].items()})
    with open(sys.argv[-1], "w", encoding="utf-8") as f:
        f.write(draw(results))
    for m in results:
        print(table(m))


if __name__ == "__main__":
    main()
