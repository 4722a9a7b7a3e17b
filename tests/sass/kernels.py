# SPDX-License-Identifier: Apache-2.0
"""What the machine code of each kernel that a chunk spends its time in must look like: data for test_sass.py.

A row: what the kernel is called (a regular expression for its whole demangled name up to the parameters, "bf16" for __nv_bfloat16),
the GPUs that it is built for in this form, the most registers, and counts of instructions over the whole kernel: at least, at most.
An instruction is the start of its SASS name: "HMMA.16816" counts HMMA.16816.F32.BF16. For every row besides: no stack frame, no
local memory (LDL, STL), no call into the driver (CALL.ABS), no more than `calls` of slow divisions and roots (CALL.REL; not counted
for sm_89, where shuffles are such calls, too). A pattern that finds no kernel fails: it was renamed.
"""

from typing import NamedTuple

ALL = ("89", "90a", "120a")
NEVER = {"LDL": 0, "STL": 0, "CALL.ABS": 0}


class Kernel(NamedTuple):
    name: str
    archs: tuple[str, ...] = ALL
    registers: int = 255
    least: dict[str, int] = {}
    most: dict[str, int] = {}
    stack: int = 0
    calls: int = 0


KERNELS = (
    # Two products of a tile of 64 keys: 2 x 4 x (width / 16) x 8 / 2 HMMA a warp, operands by ldmatrix, copies in the background.
    # The calls are divisions before the loop.
    Kernel(r"attention_mma_kernel<64, .*>", registers=136, least={"HMMA.16816.F32.BF16": 64, "LDSM": 32, "LDGSTS": 4}, calls=2),
    Kernel(r"attention_mma_kernel<128, .*>", registers=232, least={"HMMA.16816.F32.BF16": 128, "LDSM": 64, "LDGSTS": 4}, calls=2),
    Kernel(r"attention_small_kernel<.*>", registers=176, least={"HMMA.16816.F32.BF16": 16, "LDSM": 8, "LDGSTS": 24}, calls=4),
    # wgmma over tiles of 64 keys brought by bulk copies; with a warp of its own that brings them, registers move to those that
    # multiply. A DEPBAR behind every HGMMA would mean that ptxas made them wait for each other.
    Kernel(r"attention_sm90_kernel<plan<1, .*>", ("90a",), registers=160, least={"HGMMA": 24, "UBLKCP": 6},
           most={"WARPGROUP.DEPBAR": 8}, calls=14),
    Kernel(r"attention_sm90_kernel<plan<3, .*>", ("90a",), registers=128, least={"HGMMA": 24, "UBLKCP": 6, "USETMAXREG": 2},
           most={"WARPGROUP.DEPBAR": 8}, calls=14),
    Kernel(r"attention_sm90_kernel<plan<2, .*>", ("90a",), registers=168, least={"HGMMA": 24, "UBLKCP": 6, "USETMAXREG": 2},
           most={"WARPGROUP.DEPBAR": 8}, calls=14),
    Kernel(r"attention_merge_kernel<.*>", registers=40, calls=4),
    Kernel(r"sdpa_sm90_kernel", ("90a",), registers=168, least={"HGMMA": 12, "LDGSTS": 8}, most={"WARPGROUP.DEPBAR": 4}, calls=4),
    Kernel(r"select_kernel", registers=128, calls=4),
    Kernel(r"norm_modulate_kernel<.*>", registers=144, calls=5),
    Kernel(r"rms_norm_kernel<.*>", registers=128, calls=1),
    # Rows that stay in registers while blocks go over them: no more of those than let three blocks of 256 (one of 768) live.
    Kernel(r"norm_stream_kernel<.*>", registers=80, calls=2),
    Kernel(r"qkv_kernel<.*>", registers=80, calls=2),
    Kernel(r"block_mean_kernel<.*>", registers=48, calls=2),
    Kernel(r"denoise_kernel", registers=40),
    # The decoders. A step of 16 channels: (pixels / 16) x (columns / 8) HMMA, two or four of them; on Hopper two HGMMA, in two depths,
    # and as many waits as steps in the code: more would mean that ptxas lets no two overlap.
    Kernel(r"conv_patch_kernel<16, 64, .*>", registers=128, least={"HMMA.16816.F32.BF16": 32, "LDSM": 12, "LDGSTS": 4}),
    Kernel(r"conv_patch_kernel<8, .*>", registers=200, least={"HMMA.16816.F32.BF16": 32, "LDSM": 12, "LDGSTS": 4}),
    Kernel(r"conv_few_kernel<.*>", registers=84, least={"HMMA.16816.F32.BF16": 24, "LDSM": 10, "LDGSTS": 4}),
    Kernel(r"conv_flow_kernel<8, .*>", ("90a",), registers=168, least={"HGMMA": 8, "LDSM": 8, "UTMALDG": 2, "UBLKCP": 1},
           most={"WARPGROUP.DEPBAR": 11}),
    Kernel(r"channel_norm_vectors_kernel<.*>", registers=80, calls=2),
    Kernel(r"attention_wide_kernel<.*>", registers=248, least={"HMMA.16816.F32.BF16": 32, "LDSM": 16, "LDGSTS": 3}, calls=1),
)
