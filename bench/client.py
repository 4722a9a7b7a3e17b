# SPDX-License-Identifier: Apache-2.0
"""One viewer of the daemon over a real WebSocket, VP9 included, pace max: what arrives, and how soon new words show.

    LIGHTFORCED=build/server/lightforced python3 bench/client.py --model models/demo [--backend cuda] [--chunks 30] [--prompts 9]
        [--precision P] [--sparsity S] [-- FURTHER DAEMON ARGUMENTS]

Prints one JSON object: client_fps (pictures received over whole chunks once the window is full), prompt_to_picture_ms (POST to the
first frame of the new revision, median, each sent at another moment of a chunk), first_frame_ms (POST of a session to its first
frame), load_s, encode_ms and dit_ms a chunk as the daemon accounts for them, frame_kib, encoder_share (of the wall time: 1 is a
bottleneck).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "api"))
import client  # noqa: E402

WINDOW_CHUNKS = 8  # fill the window, and one more
client.PATIENCE_S = 300  # a big model takes its time to load


def next_frame(socket: client.Socket, accounts: list[dict]) -> client.Frame:
    while True:
        message = socket.receive(60)
        if message is None:
            raise SystemExit("no frame within 60 s")
        if isinstance(message, client.Frame):
            return message
        if message["type"] == "chunk.end":
            accounts.append(message["timings"])


def speed(socket: client.Socket, chunks: int, accounts: list[dict]) -> dict[str, float]:
    def last_of(chunk: int) -> tuple[int, int]:
        count = size = 0
        while True:
            f = next_frame(socket, accounts)
            count, size = count + 1, size + len(f.payload)
            if f.chunk >= chunk and f.index == f.of - 1:
                return count, size

    last_of(WINDOW_CHUNKS)
    accounts.clear()
    start = time.monotonic()
    frames, size = last_of(WINDOW_CHUNKS + chunks)
    seconds = time.monotonic() - start
    encode = sum(t["encode_us"] for t in accounts) / 1e6
    return dict(client_fps=round(frames / seconds, 2), frame_kib=round(size / frames / 1024, 2),
                encode_ms=round(encode * 1e3 / len(accounts), 2), encoder_share=round(encode / seconds, 3),
                dit_ms=round(statistics.median(t["dit_us"] for t in accounts) / 1e3, 2),
                vae_ms=round(statistics.median(t["vae_us"] for t in accounts) / 1e3, 2), seconds=round(seconds, 2))


def steering(daemon: client.Daemon, session: dict, socket: client.Socket, count: int, chunk_s: float) -> list[float]:
    chance, waits = random.Random(1), []
    for i in range(count):
        until = time.monotonic() + chunk_s * (1 + chance.random())
        while time.monotonic() < until:
            next_frame(socket, [])
        start = time.monotonic()
        answer = daemon.post(f"/v1/sessions/{session['id']}/prompts", dict(text=f"a white sailboat on the sea, take {i}",
                             transition=dict(mode="switch")))
        if answer.status != 202:
            raise SystemExit(f"prompt refused: {answer.body!r}")
        while next_frame(socket, []).revision < answer.json["revision"]:
            pass
        waits.append((time.monotonic() - start) * 1000)
    return waits


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default=os.path.join(ROOT, "models", "demo"))
    p.add_argument("--backend", default="cuda")
    p.add_argument("--precision", default="auto")
    p.add_argument("--sparsity", default="model")
    p.add_argument("--chunks", type=int, default=30)
    p.add_argument("--prompts", type=int, default=9)
    p.add_argument("daemon", nargs="*", help="arguments of the daemon, after --")
    a = p.parse_args()
    begun = time.monotonic()
    with client.Daemon("--model", a.model, "--precision", a.precision, "--sparsity", a.sparsity, *a.daemon, backend=a.backend) as daemon:
        out: dict[str, object] = dict(load_s=round(time.monotonic() - begun, 2))
        start = time.monotonic()
        session = daemon.create("a red kite over green hills", seed=3, pace="max")
        socket = daemon.stream(session["id"])
        next_frame(socket, [])
        out["first_frame_ms"] = round((time.monotonic() - start) * 1000, 1)
        out |= speed(socket, a.chunks, [])
        waits = steering(daemon, session, socket, a.prompts, float(out["seconds"]) / a.chunks)
        out |= dict(prompt_to_picture_ms=round(statistics.median(waits), 1), prompt_to_picture_ms_max=round(max(waits), 1))
        socket.close()
        status = daemon.stop()
        out |= dict(exit_status=status, log=[line for line in daemon.lines().splitlines() if " ready after " in line or "WARN" in line])
    print(json.dumps(out))


if __name__ == "__main__":
    main()
