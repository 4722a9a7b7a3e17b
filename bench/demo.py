# SPDX-License-Identifier: Apache-2.0
"""The demo model end to end: the daemon, one viewer over a real WebSocket, VP9 included.

    python3 bench/demo.py [--isa native|avx2] [--peer PYTHON] --out bench/results/demo-cpu-NAME.json

What is taken, in this order, with one daemon on the demo model and the CPU:
  exec_to_first_picture_ms  a client polls /readyz from the start of the process, POSTs, watches
  first_picture_ms          POST /v1/sessions to the first binary message, p50 of 5 sessions
  demo_fps_<isa>            pace max: frames received in --seconds after 10 s of warm-up
  resident_mib              VmHWM then
  prompt_to_picture_ms_*    pace realtime, mode switch: POST to the first frame of the new revision, --prompts of them at
                            random moments; chunk_ms_p50: what a chunk cost meanwhile (condition + dit + vae + encode)
  gemm_peak_gflops_*        bench_gemm in the same call; peer_torch_* with --peer: PyTorch doing the dense rollout
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time

from result import ROOT, write

sys.path.insert(0, os.path.join(ROOT, "tests", "api"))
import client  # noqa: E402

LIMITED = dict(LIGHTFORCED_CPU_ISA="avx2", ONEDNN_MAX_CPU_ISA="AVX2", DNNL_MAX_CPU_ISA="AVX2")
PROMPTS = ["a red kite flies left over green hills at noon", "a white sailboat sails left on the sea at sunset",
           "a blue airship cruises right across desert dunes at dawn in the fog",
           "a purple bird flies right over the ocean at night under a clear sky"]
WARMUP_S = 10

Metrics = dict[str, dict[str, float | str]]


def first_frame(daemon: client.Daemon, **more: object) -> tuple[dict, client.Socket, float]:
    """A new session, its socket, and the seconds from POST to its first frame."""
    start = time.monotonic()
    session = daemon.create(PROMPTS[0], seed=7, **more)
    socket = daemon.stream(session["id"])
    socket.until(lambda m: isinstance(m, client.Frame))
    return session, socket, time.monotonic() - start


def end(daemon: client.Daemon, session: dict, socket: client.Socket) -> None:
    daemon.delete(f"/v1/sessions/{session['id']}")
    socket.close()


def speed(daemon: client.Daemon, seconds: float) -> float:
    session, socket, _ = first_frame(daemon, pace="max")
    begin, frames = time.monotonic() + WARMUP_S, 0
    while (now := time.monotonic()) < begin + seconds:
        if isinstance(socket.receive(1), client.Frame) and now >= begin:
            frames += 1
    end(daemon, session, socket)
    return frames / seconds


def steering(daemon: client.Daemon, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds from each POST to its first frame; milliseconds each chunk cost meanwhile."""
    session, socket, _ = first_frame(daemon)
    chance, waits, costs = random.Random(1), [], []

    def watch(message: object) -> None:
        if isinstance(message, dict) and message["type"] == "chunk.end":
            t = message["timings"]
            costs.append(sum(t[k] for k in ("condition_us", "dit_us", "vae_us", "encode_us")) / 1000)

    for i in range(count):
        pause = time.monotonic() + chance.uniform(.8, 2.3)
        while (left := pause - time.monotonic()) > 0:
            watch(socket.receive(left))
        start = time.monotonic()
        answer = daemon.post(f"/v1/sessions/{session['id']}/prompts",
                             dict(text=PROMPTS[(i + 1) % len(PROMPTS)], transition=dict(mode="switch")))
        assert answer.status == 202, answer.body
        revision = answer.json["revision"]
        while not (isinstance(m := socket.receive(20), client.Frame) and m.revision >= revision):
            assert m is not None, "no frame within 20 s"
            watch(m)
        waits.append((time.monotonic() - start) * 1000)
    end(daemon, session, socket)
    return waits, costs


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def status_kib(pid: int, key: str) -> int:
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(key + ":"))


def measure(a: argparse.Namespace, env: dict[str, str]) -> Metrics:
    out: Metrics = {}

    def put(name: str, value: float, unit: str) -> None:
        out[name] = dict(value=round(value, 2), unit=unit)
        print(f"{name} {value:.2f} {unit}", flush=True)

    start = time.monotonic()
    with client.Daemon("--model", a.model, backend="cpu", env=env) as daemon:
        session, socket, _ = first_frame(daemon)
        put("exec_to_first_picture_ms", (time.monotonic() - start) * 1000, "ms")
        end(daemon, session, socket)
        waits = []
        for _ in range(5):
            session, socket, wait = first_frame(daemon)
            waits.append(wait * 1000)
            end(daemon, session, socket)
        put("first_picture_ms", statistics.median(waits), "ms")
        put(f"demo_fps_{a.isa}", speed(daemon, a.seconds), "frames/s")
        put("resident_mib", status_kib(daemon.process.pid, "VmHWM") / 1024, "MiB")
        waits, costs = steering(daemon, a.prompts)
        put("prompt_to_picture_ms_p50", percentile(waits, .5), "ms")
        put("prompt_to_picture_ms_p95", percentile(waits, .95), "ms")
        put("chunk_ms_p50", percentile(costs, .5), "ms")
        daemon.stop()
    peak = subprocess.run([os.path.join(a.build, "bench", "bench_gemm")], env={**os.environ, **env}, capture_output=True, text=True,
                          check=True)
    for name, metric in json.loads(peak.stdout)["metrics"].items():
        if name.startswith("gemm_peak_gflops"):
            put(name, metric["value"], "GFLOP/s")
    if a.peer:
        peer = subprocess.run([a.peer, os.path.join(ROOT, "bench", "peer_torch.py"), "--model", a.model], capture_output=True,
                              text=True, check=True)
        for name, metric in json.loads(peer.stdout).items():
            put(name, metric["value"], "frames/s")
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--isa", choices=("native", "avx2"), default="native")
    p.add_argument("--build", default=os.path.join(ROOT, "build"))
    p.add_argument("--model", default=os.path.join(ROOT, "models", "demo"))
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--prompts", type=int, default=50)
    p.add_argument("--peer", metavar="PYTHON", help="an interpreter that has torch")
    p.add_argument("--out", required=True)
    a = p.parse_args()
    os.environ["LIGHTFORCED"] = os.path.join(a.build, "server", "lightforced")
    write(a.out, "demo-cpu", measure(a, LIMITED if a.isa == "avx2" else {}), "python3 bench/demo.py")


if __name__ == "__main__":
    main()
