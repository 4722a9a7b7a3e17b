#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The machine code of the kernels against tests/sass/kernels.py, without a GPU. Arguments: object files. Exit 77 (skipped) without
cuobjdump and nvdisasm; they come with a toolkit, or as PyPI's nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm.

    test_sass.py [--list] OBJECT...

--list prints every kernel with its registers and the instructions that rows may ask for.
"""

from __future__ import annotations

import collections
import glob
import os
import re
import shutil
import subprocess
import sys

sys.dont_write_bytecode = True
from kernels import KERNELS, NEVER, Kernel

LISTED = ("HGMMA", "HMMA", "QMMA", "OMMA", "IMMA", "LDSM", "STSM", "LDGSTS", "UBLKCP", "UTMALDG", "USETMAXREG", "WARPGROUP.DEPBAR", "MUFU",
          "BAR.SYNC", "LDL", "STL", "CALL")


class Code:
    """One kernel for one GPU."""

    def __init__(self, name: str, arch: str) -> None:
        self.name, self.arch = name, arch
        self.registers = self.stack = 0
        self.count: collections.Counter[str] = collections.Counter()

    def of(self, start: str) -> int:
        return sum(n for op, n in self.count.items() if op == start or op.startswith(start + ".") or
                   ("." in start and op.startswith(start)))


def tools() -> str | None:
    """The folder that holds both."""
    folders = [os.path.dirname(p) for p in (shutil.which("cuobjdump"),) if p] + ["/usr/local/cuda/bin"]
    folders += [f for p in sys.path for f in glob.glob(os.path.join(p, "nvidia", "*", "bin"))]
    return next((f for f in folders if all(os.path.exists(os.path.join(f, t)) for t in ("cuobjdump", "nvdisasm"))), None)


def run(*command: str, given: str | None = None) -> str:
    return subprocess.run(command, input=given, capture_output=True, text=True, check=True).stdout


def plain(names: list[str]) -> dict[str, str]:
    """Mangled -> the name with template arguments, without the parameters."""
    out = {}
    for mangled, name in zip(names, run("c++filt", given="\n".join(names)).splitlines()):
        name = name.replace("__nv_bfloat16", "bf16").replace("(anonymous namespace)::", "").replace("> >", ">>")
        depth = 0
        for i, c in enumerate(name):
            depth += (c == "<") - (c == ">")
            if c == "(" and depth == 0:
                name = name[:i]
                break
        out[mangled] = re.sub(r"^(void|static) ", "", name)
    return out


def read(folder: str, path: str) -> list[Code]:
    codes: dict[tuple[str, str], Code] = {}
    os.environ["PATH"] = folder + os.pathsep + os.environ["PATH"]
    code, arch = None, ""
    for line in run("cuobjdump", "-sass", path).splitlines():
        if m := re.match(r"\s*code for sm_(\w+)", line):
            arch = m[1]
        elif m := re.match(r"\s*Function : (\S+)", line):
            code = codes.setdefault((m[1], arch), Code(m[1], arch))
        elif code and (m := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", line)):
            code.count[m[1]] += 1
    name = ""
    for line in run("cuobjdump", "-res-usage", path).splitlines():
        if m := re.match(r"arch = sm_(\w+)", line):
            arch = m[1]
        elif m := re.match(r"\s*Function (\S+):", line):
            name = m[1]
        elif (m := re.search(r"REG:(\d+) STACK:(\d+)", line)) and (name, arch) in codes:
            codes[name, arch].registers, codes[name, arch].stack = int(m[1]), int(m[2])
    names = plain(sorted({c.name for c in codes.values()}))
    for c in codes.values():
        c.name = names[c.name]
    return list(codes.values())


def faults(row: Kernel, c: Code) -> list[str]:
    bad = []
    if not 0 < c.registers <= row.registers:
        bad.append(f"{c.registers} registers, {row.registers} are allowed")
    if c.stack > row.stack:
        bad.append(f"a stack frame of {c.stack} bytes, {row.stack} are allowed")
    limits = NEVER if c.arch == "89" else {**NEVER, "CALL.REL": row.calls}
    for op, most in {**limits, **row.most}.items():
        if c.of(op) > most:
            bad.append(f"{c.of(op)} {op}, at most {most}")
    for op, least in row.least.items():
        if c.of(op) < least:
            bad.append(f"{c.of(op)} {op}, at least {least}")
    return bad


def main() -> int:
    listing = "--list" in sys.argv[1:]
    paths = [p for p in sys.argv[1:] if p != "--list"]
    folder = tools()
    if not folder or not shutil.which("c++filt"):
        print("skipped: no cuobjdump with nvdisasm beside it, or no c++filt")
        return 77
    codes = [c for path in paths for c in read(folder, path)]
    if listing:
        for c in sorted(codes, key=lambda c: (c.name, c.arch)):
            print(f"{c.name} sm_{c.arch}: {c.registers} registers, {c.stack} stack,",
                  " ".join(f"{op} {c.of(op)}" for op in LISTED if c.of(op)))
        return 0
    built = {c.arch for c in codes}
    bad = 0
    for row in KERNELS:
        found = [c for c in codes if c.arch in row.archs and re.fullmatch(row.name, c.name)]
        missing = sorted((built & set(row.archs)) - {c.arch for c in found})
        said = [f"no kernel of this name for sm_{arch}" for arch in missing]
        said += [f"{c.name} sm_{c.arch}: {fault}" for c in found for fault in faults(row, c)]
        print("FAIL" if said else "ok  ", row.name, f"({len(found)})")
        for line in said:
            print("     ", line)
        bad += bool(said)
    print(f"{len(KERNELS)} rows, {bad} failed; {len(codes)} kernels for {', '.join(sorted(built))}")
    return 1 if bad or not codes else 0


if __name__ == "__main__":
    sys.exit(main())
