# SPDX-License-Identifier: Apache-2.0
"""All scores, sheets and figures of the demo model, with one command:

    python3 tools/eval/report.py --build BUILD [--weights W] [--dense-trained DIR] [--only PART,...]

Parts: what runs, where it writes, and what it takes
  model           score.py       bench/results/demo-model.json                  a GPU; W: a training's folder, whole autoencoder
  ablation        ablation.py    bench/results/demo-ablation-tuned.json         a GPU
  ablation_dense  ablation.py    bench/results/demo-ablation.json               a GPU; DIR: a model trained with dense attention
  engine          engine.py      bench/results/demo-engine.json                 the built engine
  sheets          show.py        docs/demo-*.jpg, docs/demo.webm                the built engine
  speed           bench/demo.py  bench/results/demo-cpu-{avx2,native}.json      the built engine on a quiet machine
  plot            plot.py        docs/sparsity.svg
  join                           bench/results/demo.json, the tables in models/demo/README.md and README.md

Without --only everything runs that has what it takes. `join` reads what lies in bench/results, whatever run it is of: every figure
keeps the machine and the commit of its own run.
"""

from __future__ import annotations

import argparse
import glob
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "bench"))

import result  # noqa: E402
from result import ROOT  # noqa: E402

RESULTS, MODEL = (os.path.join(ROOT, p) for p in ("bench/results", "models/demo"))
DOCUMENTS = tuple(os.path.join(ROOT, p) for p in ("models/demo/README.md", "README.md"))
BEGIN, END = "<!-- scores: tools/eval/report.py -->\n", "<!-- end of scores -->\n"
# Figure -> the result that has it, its name there when it is another.
SOURCES: dict[str, tuple[str, str | None]] = {
    "ae_psnr_db": ("demo-model", None),
    "ae_psnr_subject_db": ("demo-model", None),
    "adherence_trained": ("demo-engine", None),
    "adherence_heldout": ("demo-engine", None),
    "adherence_switch_2": ("demo-engine", None),
    "adherence_paraphrased_known_words": ("demo-engine", None),
    "adherence_paraphrased_new_words": ("demo-engine", None),
    "direction_accuracy": ("demo-engine", None),
    "sharpness_first_chunk": ("demo-model", None),
    "drift_points_180s": ("demo-model", None),
    "drift_points_1800s": ("demo-engine", None),
    "psnr_dense_hsa85_db": ("demo-ablation", None),
    "psnr_dense_best85_db": ("demo-ablation", None),
    "psnr_dense_hsa85_tuned_db": ("demo-ablation-tuned", None),
    "adherence_loss_hsa85_points": ("demo-ablation", None),
    "adherence_loss_hsa85_tuned_points": ("demo-ablation-tuned", "adherence_loss_hsa85_points"),
    "demo_fps_avx2": ("demo-cpu-avx2", None),
    "demo_fps_native": ("demo-cpu-native", None),
}
TARGETS: result.Targets = {
    "ae_psnr_db": (">=", 37),
    "ae_psnr_subject_db": (">=", 31),
    "adherence_trained": (">=", 99),
    "adherence_heldout": (">=", 98),
    "adherence_switch_2": (">=", 99),
    "direction_accuracy": (">=", 96),
    "sharpness_first_chunk": (">=", .9),
    "drift_points_180s": ("<=", 1.5),
    "psnr_dense_hsa85_db": (">=", 1, "psnr_dense_best85_db", -.5),
    "psnr_dense_hsa85_tuned_db": (">=", 1, "psnr_dense_hsa85_db", 2),
    "adherence_loss_hsa85_points": ("<=", 1),
    "demo_fps_avx2": (">=", 16),
    "weights_mib": ("<=", 32),
}


def weights_mib() -> float:
    files = glob.glob(os.path.join(MODEL, "*.safetensors")) + [os.path.join(MODEL, "tokenizer.model")]
    return sum(os.path.getsize(f) for f in files) / 2**20


def joined(results: str) -> result.Metrics:
    """Every figure that some result has, with the run it is of."""
    out: result.Metrics = {}
    for name, (source, there) in SOURCES.items():
        path = os.path.join(results, source + ".json")
        run = result.read(path) if os.path.exists(path) else {}
        if metric := run.get("metrics", {}).get(there or name):
            out[name] = metric | dict(result=source, machine=run["machine"], commit=run["commit"][:7])
    out["weights_mib"] = dict(value=round(weights_mib(), 2), unit="MiB")
    return out


def table(metrics: result.Metrics) -> str:
    verdicts = result.verdicts(metrics, TARGETS)
    rows = ["| figure | value | wanted | result, machine, commit |", "|---|---|---|---|"]
    for name, metric in metrics.items():
        said, _, wanted = verdicts.get(name, "").partition(": ")
        wanted = wanted.partition(" ")[2] + (", **missed**" if said == "MISSED" else "")
        run = f"`{metric['result']}`, {metric['machine']}, {metric['commit']}" if "result" in metric else "the files"
        rows.append(f"| `{name}` | {float(str(metric['value'])) + 0:.4g} {metric['unit']} | {wanted} | {run} |")
    return "\n".join(rows) + "\n"


def replaced(text: str, new: str, path: str = "") -> str:
    """text with what lies between the marks replaced."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{path}: wants one line {BEGIN.strip()} and one {END.strip()}")
    return text[:text.index(BEGIN) + len(BEGIN)] + new + text[text.index(END):]


def join() -> None:
    metrics = joined(RESULTS)
    result.write(os.path.join(RESULTS, "demo.json"), "demo", metrics, "python3 tools/eval/report.py", targets=result.verdicts(metrics, TARGETS))
    for path in DOCUMENTS:
        with open(path, encoding="utf-8") as f:
            text = replaced(f.read(), table(metrics), path)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
    for name, said in result.verdicts(metrics, TARGETS).items():
        print(name, said)


def commands(a: argparse.Namespace) -> dict[str, list[list[str]]]:
    """Of each part that has what it takes."""
    def tool(name: str, *rest: str) -> list[str]:
        return [sys.executable, os.path.join(HERE, name), *rest]

    rollout, tokens = os.path.join(a.build or "", "tools", "lightforced-rollout"), os.path.join(MODEL, "tokenizer.model")
    judge, count = os.path.join(HERE, "judge.safetensors"), str(a.count)
    each = ("--threads", "1", "--workers", str(len(os.sched_getaffinity(0))))  # more pictures than one program with all cores
    out = {}
    if a.weights:
        out["model"] = [tool("score.py", "--weights", a.weights, "--tokenizer", tokens, "--tag", a.tag, "--out", RESULTS, "--count", count,
                             "--judge", judge)]
    if a.weights or a.dense_trained:
        out["ablation"] = [tool("ablation.py", "--model", MODEL, "--out", RESULTS, "--name", "demo-ablation-tuned", "--tuned")]
    if a.dense_trained:
        out["ablation_dense"] = [tool("ablation.py", "--model", a.dense_trained, "--out", RESULTS, "--name", "demo-ablation")]
    if a.build:
        out["engine"] = [tool("engine.py", "--rollout", rollout, "--model", MODEL, "--out", RESULTS, "--count", count, "--drift", "2",
                              "--minutes", "30", *each)]
        out["sheets"] = [tool("show.py", "--rollout", rollout, "--model", MODEL, "--out", os.path.join(ROOT, "docs"))]
        out["speed"] = [[sys.executable, os.path.join(ROOT, "bench", "demo.py"), "--isa", isa, "--build", a.build, "--peer", sys.executable,
                         "--out", os.path.join(RESULTS, f"demo-cpu-{isa}.json")] for isa in ("avx2", "native")]
    out["plot"] = [tool("plot.py", os.path.join(RESULTS, "demo-ablation.json"), os.path.join(RESULTS, "demo-ablation-tuned.json"),
                        os.path.join(ROOT, "docs", "sparsity.svg"))]
    return out | {"join": []}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", help="a build directory of this tree")
    p.add_argument("--weights", help="folder of ae.safetensors, t5.safetensors and dit_TAG_{1,2}.safetensors")
    p.add_argument("--tag", default="base", help="of the transformer there")
    p.add_argument("--dense-trained", metavar="DIR", help="a model folder as models/demo is one")
    p.add_argument("--count", type=int, default=256, help="prompts per score")
    p.add_argument("--only", help="parts, separated by commas")
    a = p.parse_args()
    a.build = a.build and os.path.abspath(a.build)
    known = commands(a)
    wanted = a.only.split(",") if a.only else list(known)
    if missing := [part for part in wanted if part not in known]:
        p.error(f"{', '.join(missing)}: no such part, or it lacks what it takes (see --help)")
    for part in wanted:
        print(f"== {part}", flush=True)
        for command in known[part]:
            subprocess.run(command, check=True)
    if "join" in wanted:
        join()


if __name__ == "__main__":
    main()
