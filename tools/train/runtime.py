# SPDX-License-Identifier: Apache-2.0
"""What every training stage shares: processes and devices, flat parameters, optimisers, CUDA graphs, and the loop.

A stage runs as one process or, under torchrun, one per GPU; gradients are averaged. The loop (`fit`) is bound by wall
time: a call takes the schedule from where the saved state left it to `to` (1 is the end) in `seconds`. It saves its
state every minute and resumes from it, and goes back to the last good weights, at a lower rate, when the loss diverges.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if CUDA else torch.device("cpu")
STARTED = time.time()


def start(seed: int) -> None:
    """Joins the other processes and seeds this one."""
    if CUDA:
        torch.cuda.set_device(DEVICE)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if WORLD > 1:
        dist.init_process_group("nccl" if CUDA else "gloo", **({"device_id": DEVICE} if CUDA else {}))
    torch.manual_seed(seed * 1000 + RANK)


def elapsed() -> float:
    """Seconds since this process began."""
    return time.time() - STARTED


def finish() -> None:
    if WORLD > 1:
        dist.barrier()
        dist.destroy_process_group()


def log(*what: object, every_rank: bool = False) -> None:
    if RANK == 0 or every_rank:
        print(f"[{elapsed():6.1f} r{RANK}]", *what, flush=True)


def autocast() -> contextlib.AbstractContextManager[None]:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=CUDA)


def mean_over_ranks(t: Tensor) -> Tensor:
    if WORLD > 1:
        dist.all_reduce(t)
        t /= WORLD
    return t


def from_rank0(values: list[float]) -> list[float]:
    """Rank 0's numbers on every rank."""
    if WORLD == 1:
        return values
    t = torch.tensor(values, device=DEVICE, dtype=torch.float64)
    dist.broadcast(t, 0)
    return t.tolist()


# ------------------------------------------------------------------ files
def save_weights(path: str, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None,
                 dtype: torch.dtype = torch.bfloat16) -> None:
    """Writes a safetensors file; a reader never sees half of it."""
    whole = {k: v.detach().to(dtype).contiguous().clone() for k, v in tensors.items()}
    save_file(whole, path + ".tmp", metadata)
    os.replace(path + ".tmp", path)


def load_weights(*paths: str) -> dict[str, Tensor]:
    """All tensors of the files, in float32."""
    out: dict[str, Tensor] = {}
    for path in paths:
        with safe_open(path, "pt") as f:
            for key in f.keys():
                out[key] = f.get_tensor(key).float()
    return out


def save_dit(directory: str, tensors: dict[str, Tensor], tag: str, metadata: dict[str, str] | None = None) -> list[str]:
    """One state dict in two files of under 16 MiB."""
    keys, paths = list(tensors), []
    for i, part in enumerate((keys[:len(keys) // 2], keys[len(keys) // 2:])):
        paths.append(os.path.join(directory, f"dit_{tag}_{i + 1}.safetensors"))
        save_weights(paths[-1], {k: tensors[k] for k in part}, metadata)
    return paths


def load_dit(directory: str, tag: str) -> dict[str, Tensor]:
    return load_weights(*(os.path.join(directory, f"dit_{tag}_{i}.safetensors") for i in (1, 2)))


# ------------------------------------------------------------------ parameters and optimisers
class FlatParameters:
    """Parameters moved into one buffer, their gradients into another: first the given matrices, by shape, then the rest.

    One all-reduce, one fused AdamW and one stack of matrices per shape then serve the whole model.
    """

    def __init__(self, modules: Iterable[nn.Module], matrices: Iterable[nn.Parameter] = ()) -> None:
        by_shape: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for p in matrices:
            by_shape.setdefault(tuple(p.shape), []).append(p)
        first = [p for group in by_shape.values() for p in group]
        taken = {id(p) for p in first}
        rest = [p for m in modules for p in m.parameters() if p.requires_grad and id(p) not in taken]
        total = sum(p.numel() for p in (*first, *rest))
        self.data, self.grad = torch.empty(total, device=DEVICE), torch.zeros(total, device=DEVICE)
        at = 0
        for p in (*first, *rest):
            span = slice(at, at + p.numel())
            view = self._view(self.data[span], p)
            view.copy_(p.data)
            p.data, p.grad = view, self._view(self.grad[span], p)
            at += p.numel()
        self.stacks: list[tuple[Tensor, Tensor]] = []
        at = 0
        for shape, group in by_shape.items():
            span = slice(at, at + len(group) * math.prod(shape))
            self.stacks.append((self.data[span].view(-1, *shape), self.grad[span].view(-1, *shape)))
            at = span.stop
        self.rest = nn.Parameter(self.data[at:])
        self.rest.grad = self.grad[at:]

    @staticmethod
    def _view(flat: Tensor, p: nn.Parameter) -> Tensor:
        if p.dim() == 4:  # convolutions run channels-last
            o, i, h, w = p.shape
            return flat.view(o, h, w, i).permute(0, 3, 1, 2)
        return flat.view(p.shape)


class Optimizer:
    """Muon for the matrices, AdamW with a clipped gradient for the rest."""

    def __init__(self, flat: FlatParameters, adam_rate: float, muon_rate: float = 0., betas: tuple[float, float] = (.9, .98),
                 decay: float = .01, muon_decay: float = .02) -> None:
        self.flat, self.adam_rate, self.muon_rate, self.muon_decay = flat, adam_rate, muon_rate, muon_decay
        self.adam = torch.optim.AdamW([flat.rest], lr=adam_rate, betas=betas, weight_decay=decay, fused=CUDA)
        self.momentum = [torch.zeros_like(w) for w, _ in flat.stacks]

    @torch.no_grad()
    def step(self, scale: float) -> None:
        g = self.flat.rest.grad
        g.mul_((1. / (g.norm() + 1e-6)).clamp(max=1.))
        for group in self.adam.param_groups:
            group["lr"] = self.adam_rate * scale
        self.adam.step()
        rate = self.muon_rate * scale
        for (w, g), m in zip(self.flat.stacks, self.momentum, strict=True):
            m.lerp_(g, .05)
            x = g.lerp(m, .95).bfloat16()
            tall = x.shape[1] > x.shape[2]
            x = x.mT if tall else x
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            for _ in range(5):  # Newton-Schulz: towards the nearest orthogonal matrix
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            x = x.mT if tall else x
            w.mul_(1 - rate * self.muon_decay).sub_(x.float(), alpha=.2 * max(w.shape[1:]) ** .5 * rate)

    def forget(self) -> None:
        self.adam.state.clear()
        for m in self.momentum:
            m.zero_()

    def state(self) -> dict[str, Any]:
        return dict(adam=self.adam.state_dict(), momentum=self.momentum)

    def restore(self, state: dict[str, Any]) -> None:
        self.adam.load_state_dict(state["adam"])
        for m, saved in zip(self.momentum, state["momentum"], strict=True):
            m.copy_(saved)


class Captured:
    """A function of static inputs, replayed as one CUDA graph. Where it cannot be captured it is tried again without
    compiled parts (`plain` takes them out), and where that fails too, or without CUDA, called as it is."""

    def __init__(self, body: Callable[[], None], name: str, plain: Callable[[], None] | None = None) -> None:
        self.body, self.name, self.plain = body, name, plain
        self.graph: torch.cuda.CUDAGraph | None = None

    def prepare(self) -> None:
        if not CUDA or self._capture():
            return
        if self.plain is not None:
            self.plain()
            self._capture()

    def _capture(self) -> bool:
        began = time.time()
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    self.body()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # what the warm runs took; the graph takes its own
            warm = time.time() - began
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.body()
            torch.cuda.synchronize()
            self.graph = graph
            log(f"{self.name}: warm {warm:.1f} s, captured {time.time() - began:.1f} s,",
                f"{torch.cuda.max_memory_allocated() / 2 ** 30:.1f} GiB")
        except Exception as e:  # whatever a compiler or driver raises: the eager body gives the same result, slower
            log(f"{self.name}: capture failed:", repr(e)[:800], every_rank=True)
        return self.graph is not None

    def __call__(self) -> None:
        if self.graph is not None:
            self.graph.replay()
        else:
            self.body()


# ------------------------------------------------------------------ the loop
class Job(Protocol):
    """One stage's step. `stats` accumulates per-step numbers; the first is the loss that is watched."""

    flat: FlatParameters
    stats: Tensor

    def load(self, step: int) -> None:
        """Puts the next batch into the static inputs."""

    def run(self) -> None:
        """Forward and backward into flat.grad; adds to stats."""


@dataclass
class Plan:
    """How a call of `fit` goes."""

    name: str
    out: str
    seconds: float  # wall time of this call's steps
    to: float = 1.  # progress of the schedule at its end
    steps: int | None = None  # stop after so many steps instead
    hold: float = .5  # progress up to which the rate stays at its peak
    warm: int = 100  # steps
    ema: float = .999
    check: int = 50  # steps between two looks at the clock and the loss
    guess: float = .1  # seconds a step, until measured
    diverged: float = 1.35  # a loss this much over the best is a divergence
    save_every: float = 60.
    export: Callable[[], None] = field(default=lambda: None)  # called on rank 0 with the averaged weights in place


def _rate(p: float, hold: float) -> float:
    return 1. if p < hold else max(.01, 1 - (p - hold) / (1 - hold))


class _Run:
    """The changing part of `fit`."""

    def __init__(self, job: Job, opt: Optimizer, plan: Plan) -> None:
        self.job, self.opt, self.plan = job, opt, plan
        self.path = os.path.join(plan.out, f"{plan.name}.state.pt")
        self.average = job.flat.data.clone()
        self.step, self.progress, self.scale, self.best, self.rollbacks = 0, 0., 1., float("inf"), 0
        self.good = (job.flat.data.clone(), self.average.clone())
        if os.path.exists(self.path):
            saved = torch.load(self.path, map_location=DEVICE, weights_only=True)
            job.flat.data.copy_(saved["data"])
            self.average.copy_(saved["average"])
            opt.restore(saved["optimizer"])
            self.step, self.progress, self.scale, self.best, self.rollbacks = saved["numbers"]
            self.good = (job.flat.data.clone(), self.average.clone())
            log(f"{plan.name}: resumed at step {self.step}, progress {self.progress:.3f}")

    def save(self) -> None:
        state = dict(data=self.job.flat.data, average=self.average, optimizer=self.opt.state(),
                     numbers=(self.step, self.progress, self.scale, self.best, self.rollbacks))
        torch.save(state, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)
        self.swap()
        self.plan.export()
        self.swap()

    def swap(self) -> None:
        now = self.job.flat.data.clone()
        self.job.flat.data.copy_(self.average)
        self.average.copy_(now)

    def watch(self, loss: float) -> None:
        """Goes back to the last good weights where the loss left its course; else remembers these."""
        if not math.isfinite(loss) or (self.step > 4 * self.plan.check and loss > self.best * self.plan.diverged):
            self.rollbacks += 1
            if self.rollbacks > 6:
                raise RuntimeError(f"{self.plan.name}: diverged again after 6 rollbacks; lower its learning rate")
            self.scale *= .6
            self.job.flat.data.copy_(self.good[0])
            self.average.copy_(self.good[1])
            self.opt.forget()
            log(f"{self.plan.name}: ROLLBACK at {self.step}, loss {loss:.4f}, best {self.best:.4f}")
        elif loss < self.best * 1.1:
            self.best = min(self.best, loss)
            self.good = (self.job.flat.data.clone(), self.average.clone())


def fit(job: Job, opt: Optimizer, plan: Plan) -> dict[str, Any]:
    """Runs a stage; leaves the averaged weights in place and returns what happened."""
    run = _Run(job, opt, plan)
    torch.manual_seed(7919 * (run.step + 1) + RANK)
    began = saved = last = time.time()
    first, rate, per_step, seen = run.step, 0., plan.guess, [float("nan")]
    while True:
        if (run.step - first) % plan.check == 0:
            now = time.time()
            if run.step > first:
                seen = mean_over_ranks(job.stats / plan.check).tolist()
                job.stats.zero_()
                now = time.time()
                per_step = (now - last) / plan.check
                run.watch(seen[0])
            last = now
            left = (began + plan.seconds - now) / per_step
            if plan.steps is not None:
                left = plan.steps + first - run.step
            stop, rate = from_rank0([float(left <= 0), max(0., plan.to - run.progress) / max(left, 1.)])
            if run.step > first and (run.step // plan.check) % 10 == 1 or stop:
                log(f"{plan.name} {run.step} p {run.progress:.3f} {per_step * 1000:.1f} ms", *(f"{v:.4f}" for v in seen))
            if stop:
                break
            if RANK == 0 and now - saved > plan.save_every:
                saved = now
                run.save()
        warm = min(1., (run.step + 1) / plan.warm)
        job.load(run.step)
        job.run()
        mean_over_ranks(job.flat.grad)
        opt.step(run.scale * warm * _rate(run.progress, plan.hold))
        run.step += 1
        run.progress = min(plan.to, run.progress + rate)
        with torch.no_grad():
            run.average.lerp_(job.flat.data, 1 - min(plan.ema, (1 + run.step) / (10 + run.step)))
    if RANK == 0:
        run.save()
    run.swap()
    return dict(steps=run.step, progress=round(run.progress, 4), rollbacks=run.rollbacks, last=[round(v, 5) for v in seen],
                seconds=round(time.time() - began), ranks=WORLD)
