# SPDX-License-Identifier: Apache-2.0
"""The measuring side of bench/gpu.sh: runs the programs of a build on one GPU and writes their figures as one result.

    python3 bench/gpu.py --build DIR [--parts PART,...] [--beside GPU] [--quick] [--backend cuda] [--logs DIR] --out FILE

With --beside, what is marked * runs on that GPU meanwhile: one of the same kind, on a machine with cores to spare. The sanitizers
keep many cores busy and have a turn of their own.

Parts, in this order, and what they give (a figure that could not be taken is missing, its part is listed under "failures"):
  device      device_cases_failed                             test_device, every op against the CPU in f32, bf16 and fp8
  golden      golden_max_rel_error_f32, hsa_lists_identical   golden_check of every module file
  quality     demo_rollout_*, demo_psnr_<precision>_to_f32_db the demo model's rollout against its own f32 video
  stream      stream_fps, stream_first_frame_ms, vram_gib     bench_stream: random wan-1.3b, 480x832, fp8, the manifest's sparsity
  dense       stream_fps_dense_bf16                           the same, dense, bf16
* stages      stage_ms_*, elementwise_share                   the same as stream, kernels timed by CUPTI (kernel_times)
  ops         attention_sparse15_tflops, attention_dense_tflops, select_us, linear_<precision>_tflops
* peers       peer_*                                          PyTorch in the same run
  client      client_fps, prompt_to_picture_ms                a WebSocket client of the daemon, random wan-1.3b, VP9 beside it
  encoder     encoder_fps_<N>_threads_speed_<M>               the daemon's VP9 alone: noisy test pictures of that size
  client_demo client_fps_demo                                 the same with the demo model
  sanitizers  sanitizer_errors                                test_device under memcheck, racecheck, initcheck, synccheck
"""

from __future__ import annotations

import argparse
import concurrent.futures
import copy
import glob
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from typing import Callable

import result
from result import ROOT

RANDOM, DEMO = "random:wan-1.3b", os.path.join(ROOT, "models", "demo")
PROMPT = "a red kite flies right over green hills at noon"
PLACES = {"test_device": "tests", "golden_check": "tools", "lightforced-rollout": "tools", "lightforced": "server",
          "bench_stream": "bench", "bench_ops": "bench"}
TARGETS: result.Targets = {
    "golden_max_rel_error_f32": ("<=", 1e-3),
    "hsa_lists_identical": (">=", 1),
    "sanitizer_errors": ("<=", 0),
    "stream_fps": (">=", 45),
    "elementwise_share": ("<=", .2),
    "select_us": ("<=", 30),
    "attention_sparse15_tflops": (">=", 1, "peer_flex_sparse15_tflops"),
    "attention_dense_tflops": (">=", .6, "peer_cudnn_dense_tflops"),
    "client_fps": (">=", .97, "stream_fps"),
}
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")


class Failure(Exception):
    pass


class Run:
    def __init__(self, a: argparse.Namespace) -> None:
        self.a = a
        self.env: dict[str, str] = {}
        self.metrics: result.Metrics = {}
        self.details: dict[str, object] = {}
        self.failures: dict[str, str] = {}
        self.scratch = tempfile.mkdtemp()
        self.writing = threading.Lock()

    def program(self, name: str) -> str:
        for path in (os.path.join(self.a.build, PLACES[name], name), os.path.join(self.a.build, name)):
            if os.access(path, os.X_OK):
                return path
        raise Failure(f"{name} is not in {self.a.build}")

    def put(self, name: str, value: object, unit: str = "") -> None:
        if value is not None:
            self.metrics[name] = dict(value=value, unit=unit)
            print(f"    {name} {value} {unit}", flush=True)

    def call(self, label: str, *command: str, timeout: int = 300, env: dict[str, str] | None = None, good: tuple[int, ...] = (0,)) -> str:
        """Standard output; what was said lies in the logs."""
        start = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, env={**os.environ, **self.env, **(env or {})})
        except subprocess.TimeoutExpired as late:
            said = (late.stdout or b"").decode(errors="replace") + (late.stderr or b"").decode(errors="replace")
            self.log(label, command, "timeout", said)
            raise Failure(f"{label}: not done after {timeout} s: {said[-300:]}") from None
        except OSError as missing:
            raise Failure(f"{label}: {missing}") from None
        self.log(label, command, done.returncode, done.stdout + done.stderr)
        print(f"  {label}: exit {done.returncode} after {time.monotonic() - start:.1f} s", flush=True)
        if done.returncode not in good:
            raise Failure(f"{label}: exit status {done.returncode}: {(done.stdout + done.stderr)[-600:]}")
        return done.stdout

    def log(self, label: str, command: tuple[str, ...], status: object, said: str) -> None:
        if self.a.logs:
            with open(os.path.join(self.a.logs, "gpu.log"), "a") as f:
                f.write(f"==== {label}: {' '.join(command)}\n{said}\n==== {status}\n")


def find(pattern: str, text: str) -> float:
    match = re.search(pattern, text)
    if not match:
        raise Failure(f"no {pattern!r} in: {text[-400:]}")
    return float(match.group(1))


# ---- parts

def device(r: Run) -> None:
    said = r.call("device", r.program("test_device"), r.a.backend, good=(0, 1))
    r.put("device_cases_failed", int(find(r"cases, (\d+) failed", said)), "")
    worst: dict[str, float] = {}
    for precision, error in re.findall(r" (f32|bf16|fp8) +(\S+) of ", said):
        worst[precision] = max(worst.get(precision, 0), float(error))
    for precision, error in worst.items():
        r.put(f"device_max_rel_error_{precision}", error)
    absent = r.call("an absent device", r.program("test_device"), "cuda:63", good=(77,))
    if "FAIL" in said or "cuda:63 does not exist" not in absent:
        raise Failure("\n".join(line for line in said.splitlines() if "FAIL" in line) or absent)


def golden(r: Run) -> None:
    folder = os.path.join(ROOT, "tests", "golden")
    files = sorted(f for f in glob.glob(os.path.join(folder, "*.safetensors")) if "demo_rollout" not in f)
    said = r.call("golden", r.program("golden_check"), "--backend", r.a.backend, "--tolerance", "1e-3", *files, good=(0, 1, 2))
    r.put("golden_max_rel_error_f32", find(r"worst relative error (\S+)", said))
    lists = [line for line in said.splitlines() if re.match(r"\S+\.blocks ", line)]
    r.put("hsa_lists_identical", int(bool(lists) and all(line.endswith(" ok") for line in lists)))
    if "FAIL" in said or "cannot be checked" in said:
        raise Failure("\n".join(line for line in said.splitlines() if "FAIL" in line or "cannot" in line))


def any_precision(r: Run) -> str:
    """The demo model with every precision in its manifest."""
    folder = os.path.join(r.scratch, "demo")
    os.makedirs(folder)
    for name in set(os.listdir(DEMO)) - {"manifest.json"}:
        os.symlink(os.path.join(DEMO, name), os.path.join(folder, name))
    with open(os.path.join(DEMO, "manifest.json")) as f:
        manifest = json.load(f) | dict(precision=["f32", "bf16", "fp8"])
    with open(os.path.join(folder, "manifest.json"), "w") as f:
        json.dump(manifest, f)
    return folder


def quality(r: Run) -> None:
    reference = os.path.join(ROOT, "tests", "golden", "demo_rollout.safetensors")
    said = r.call("rollout golden", r.program("golden_check"), "--backend", r.a.backend, "--model", DEMO, reference, good=(0, 1))
    r.put("demo_rollout_latents_rel_error", find(r"latents .* rel (\S+)", said))
    r.put("demo_rollout_mean_abs_255", find(r"frames \(mean abs of 255\)\s+(\S+)", said), "")
    latents = os.path.join(r.scratch, "f32.safetensors")
    common = (r.program("lightforced-rollout"), "--model", any_precision(r), "--backend", r.a.backend, "--seed", "7", "--chunks", "10")
    r.call("f32 video", *common, "--prompt", PROMPT, "--precision", "f32", "--latents", latents)
    for precision in ("bf16", "fp8"):
        said = r.call(f"{precision} video", *common, "--precision", precision, "--compare", latents)
        r.put(f"demo_psnr_{precision}_to_f32_db", find(r"psnr_db (\S+)", said), "dB")


def stream_run(r: Run, label: str, precision: str, sparsity: str, env: dict[str, str] | None = None) -> dict:
    said = r.call(label, r.program("bench_stream"), "--model", r.a.model, "--backend", r.a.backend, "--precision", precision,
                  "--sparsity", sparsity, "--chunks", str(r.a.chunks), env=env)
    r.details[label] = taken = json.loads(said)
    return taken


def stream(r: Run) -> None:
    s = stream_run(r, "stream", r.a.precision, "model")
    r.put("stream_fps", s["fps"], "frames/s")
    r.put("stream_chunk_ms", s["chunk_ms_p50"], "ms")
    r.put("stream_first_frame_ms", s["first_frame_ms"], "ms")
    r.put("vram_gib", s["vram_gib"], "GiB")
    r.put("load_s", s["load_s"], "s")


def dense(r: Run) -> None:
    r.put("stream_fps_dense_bf16", stream_run(r, "dense", "bf16", "dense")["fps"], "frames/s")


def cupti_folder() -> str:
    """Where include/cupti.h is: the toolkit's extras or the PyPI package's folder."""
    places = ["/usr/local/cuda/extras/CUPTI"] + [os.path.join(p, "nvidia", n) for p in sys.path for n in ("cu13", "cuda_cupti")]
    found = [p for p in places if os.path.exists(os.path.join(p, "include", "cupti.h"))]
    if not found:
        raise Failure("no CUPTI: install the toolkit's extras or PyPI's nvidia-cuda-cupti")
    return found[0]


def stages(r: Run) -> None:
    folder, library, rows = cupti_folder(), os.path.join(r.scratch, "kernel_times.so"), os.path.join(r.scratch, "rows.tsv")
    cupti = sorted(glob.glob(os.path.join(folder, "lib*", "libcupti.so*")))[0]
    r.call("kernel_times", "cc", "-shared", "-fPIC", "-O2", "-I", os.path.join(folder, "include"), "-I", "/usr/local/cuda/include",
           os.path.join(ROOT, "bench", "kernel_times.c"), "-o", library, cupti, "-Wl,-rpath," + os.path.dirname(cupti))
    said = r.call("stages", r.program("bench_stream"), "--model", r.a.model, "--backend", r.a.backend, "--precision", r.a.precision,
                  "--chunks", str(r.a.chunks), "--starts", "1", env=dict(CUDA_INJECTION64_PATH=library, KERNEL_TIMES=rows))
    r.details["stages_stream"] = json.loads(said)
    table = json.loads(r.call("kernel table", sys.executable, os.path.join(ROOT, "bench", "kernel_times.py"), rows, "--chunks",
                              str(r.a.chunks - 2), "--after", "2"))
    for name in ("linear", "attention", "select", "elementwise", "decode", "copy"):
        r.put(f"stage_ms_{name}", table[f"stage_ms_{name}"], "ms")
    r.put("elementwise_share", table["elementwise_share"])
    r.details["kernels"] = table


def ops_run(r: Run, precision: str, *more: str) -> dict[str, dict]:
    said = r.call(f"ops {precision}", r.program("bench_ops"), "--backend", r.a.backend, "--geometry", r.a.geometry, "--precision", precision,
                  "--density", ".15", "--seconds", ".2", *more)
    lines = [json.loads(line) for line in said.splitlines()]
    return {line["op"]: line for line in lines if "op" in line}


def ops(r: Run) -> None:
    for precision in ("bf16", "fp8"):
        t = ops_run(r, precision, *(() if precision == "bf16" else ("linear",)))
        r.details[f"ops_{precision}"] = t
        flop = us = 0.0
        # A layer: qkv, o, cross q, cross o, ffn up and down.
        for name, count in dict(linear_qkv=1, linear_square=3, linear_up_gelu=1, linear_down_residual=1).items():
            us += count * t[name]["us"]
            flop += count * t[name]["us"] * t[name]["gflops"] * 1e3
        r.put(f"linear_{precision}_tflops", round(flop / us / 1e6, 1), "TFLOP/s")
        if precision == "bf16":
            r.put("attention_sparse15_tflops", round(t["attention_sparse"]["gflops"] / 1e3, 1), "TFLOP/s")
            r.put("attention_dense_tflops", round(t["attention_dense"]["gflops"] / 1e3, 1), "TFLOP/s")
            r.put("select_us", t["select_blocks"]["us"], "us")


def peers(r: Run) -> None:
    said = r.call("peers", sys.executable, os.path.join(ROOT, "bench", "peer_attention.py"))
    for name, value in json.loads(said.splitlines()[-1]).items():
        if name.endswith("tflops"):
            r.put(name, value, "TFLOP/s")
        else:
            r.details[name] = value


def client_run(r: Run, label: str, model: str, precision: str, chunks: int, backend: str = "", more: tuple[str, ...] = ()) -> dict:
    said = r.call(label, sys.executable, os.path.join(ROOT, "bench", "client.py"), "--model", model, "--backend", backend or r.a.backend,
                  "--precision", precision, "--chunks", str(chunks), "--prompts", "3" if r.a.quick else "9", *(("--", *more) if more else ()),
                  env=dict(LIGHTFORCED=r.program("lightforced")))
    r.details[label] = taken = json.loads(said.splitlines()[-1])
    return taken


def client(r: Run) -> None:
    c = client_run(r, "client", r.a.model, r.a.precision, r.a.chunks)
    r.put("client_fps", c["client_fps"], "frames/s")
    r.put("prompt_to_picture_ms", c["prompt_to_picture_ms"], "ms")
    r.put("client_encoder_share", c["encoder_share"], "")


def encoder(r: Run) -> None:
    for speed in (6, 8):
        for threads in (1, 2, 4, 8):
            c = client_run(r, f"encoder {threads} {speed}", DEMO, "auto", 8, "test:width=832,height=480,chunk_ms=0,noise=40",
                           ("--encoder-threads", str(threads), "--cpu-used", str(speed)))
            r.put(f"encoder_fps_{threads}_threads_speed_{speed}", c["client_fps"], "frames/s")


def client_demo(r: Run) -> None:
    c = client_run(r, "client_demo", DEMO, "auto", 20 if r.a.quick else 100)
    r.put("client_fps_demo", c["client_fps"], "frames/s")
    r.put("prompt_to_picture_ms_demo", c["prompt_to_picture_ms"], "ms")


def sanitize(r: Run, tool: str) -> int:
    # racecheck cannot follow the barriers by which cuBLAS's kernels hand tiles over, and reports them: no linear layers there.
    case = r.a.case or ("-linear" if tool == "racecheck" else "")
    said = r.call(tool, "compute-sanitizer", "--tool", tool, "--print-limit", "20", r.program("test_device"), r.a.backend,
                  *([case] if case else []), timeout=r.a.sanitizer_s, good=(0, 1),
                  env=dict(CUDA_VISIBLE_DEVICES=r.a.beside) if r.a.beside and tool == "racecheck" else None)
    return int(find(r"RACECHECK SUMMARY: (\d+) hazard" if tool == "racecheck" else r"ERROR SUMMARY: (\d+) error", said))


def sanitizers(r: Run) -> None:
    """All at once: nothing is timed."""
    tools, total, late = r.a.sanitizers.split(","), 0, []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for tool, count in [(tool, pool.submit(sanitize, r, tool)) for tool in tools]:
            try:
                r.put(f"sanitizer_{tool}", count.result())
                total += count.result()
            except Failure as why:
                late.append(str(why)[:300])
    if not late and set(tools) == set(SANITIZERS):
        r.put("sanitizer_errors", total)
    if late or total:
        raise Failure("; ".join(late) or f"{total} errors")


PARTS: tuple[Callable[[Run], None], ...] = (device, golden, quality, stream, dense, stages, ops, peers, encoder, client, client_demo, sanitizers)
BESIDE = (stages, peers)


def card() -> dict[str, str]:
    keys = "name,driver_version,clocks.max.sm,power.limit,memory.total"
    try:
        said = subprocess.run(["nvidia-smi", f"--query-gpu={keys}", "--format=csv,noheader"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return {}
    return dict(zip(keys.split(","), [v.strip() for v in said.splitlines()[0].split(",")])) if said else {}


def do(r: Run, parts: list[Callable[[Run], None]]) -> None:
    for part in parts:
        print(part.__name__, flush=True)
        try:
            part(r)
        except (Failure, KeyError, ValueError, IndexError) as why:
            r.failures[part.__name__] = f"{type(why).__name__}: {why}"
            print(f"  {part.__name__} FAILED {why}", flush=True)
        with r.writing:
            write(r)


def write(r: Run) -> None:
    c = r.details.get("card") or {}
    machine = f"{c.get('name', 'no GPU')}, driver {c.get('driver_version')}, {c.get('power.limit')}, {len(os.sched_getaffinity(0))} CPU cores"
    result.write(r.a.out, "gpu", dict(r.metrics), "bench/gpu.sh", commit=r.a.commit or result.commit(), machine=machine,
                 targets=result.verdicts(dict(r.metrics), TARGETS), failures=dict(r.failures), details=dict(r.details))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", required=True)
    p.add_argument("--parts", default=",".join(part.__name__ for part in PARTS))
    p.add_argument("--beside", metavar="GPU", help="number of a second one")
    p.add_argument("--quick", action="store_true", help="fewer chunks and prompts")
    p.add_argument("--backend", default="cuda")
    p.add_argument("--model", default=RANDOM, help="of stream, dense, stages and client")
    p.add_argument("--geometry", default="wan", help="of ops: bench_ops")
    p.add_argument("--precision", default="fp8", help="of stream, stages and client")
    p.add_argument("--chunks", type=int, help="measured ones")
    p.add_argument("--sanitizers", default=",".join(SANITIZERS))
    p.add_argument("--sanitizer-s", type=int, default=600, help="time for each")
    p.add_argument("--case", help="of test_device, for the sanitizers")
    p.add_argument("--commit", help="that the build is of; default: this tree's")
    p.add_argument("--logs", metavar="DIR", help="what the programs said")
    p.add_argument("--out", default=os.path.join(ROOT, "bench", "results", "gpu.json"))
    a = p.parse_args()
    a.chunks = a.chunks or (6 if a.quick else 16)
    a.build = os.path.abspath(a.build)
    wanted = a.parts.split(",")
    if unknown := set(wanted) - {part.__name__ for part in PARTS}:
        p.error(f"no such part: {', '.join(sorted(unknown))}")
    r = Run(a)
    r.details["card"] = card()
    parts = [part for part in PARTS if part.__name__ in wanted]
    beside = [part for part in parts if a.beside and part in BESIDE]
    other = copy.copy(r)
    other.env = dict(CUDA_VISIBLE_DEVICES=a.beside or "")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        late = pool.submit(do, other, beside)
        do(r, [part for part in parts if part not in (*beside, sanitizers)])
        late.result()
    do(r, [part for part in parts if part is sanitizers])
    for name, said in result.verdicts(r.metrics, TARGETS).items():
        print(f"{name} {said}")
    sys.exit(1 if r.failures else 0)


if __name__ == "__main__":
    main()
