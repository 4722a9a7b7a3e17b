#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demo model's autoencoder of tools/train: widened weights compute the same, files say how wide they are, and square errors
are counted where they should. Exit status 77 where PyTorch or safetensors are missing.
"""

import with_torch  # noqa: F401, I001
import nets
import torch
from ae import square_errors

NARROW, WIDE = dict(enc=(8, 8, 16, 16), dec=(16, 12, 8, 8)), dict(enc=(12, 16, 24, 32), dec=(24, 16, 16, 12))
TOLERANCE = 1e-6  # of sums in another order; observed 0


def same(a: torch.Tensor, b: torch.Tensor, what: str) -> None:
    if (worst := (a - b).abs().max().item()) > TOLERANCE * a.abs().max().item():
        raise SystemExit(f"{what}: {worst} apart")


@torch.no_grad()
def widened() -> None:
    narrow, wide = nets.TAEHV(**NARROW), nets.TAEHV(**WIDE)
    pictures = torch.rand(2, 8, 3, 32, 48)
    before = wide.decode(wide.encode(pictures))
    nets.widen(narrow.state_dict(), wide)
    latents = narrow.encode(pictures)
    same(latents, wide.encode(pictures), "a wider encoder")
    same(narrow.decode(latents), wide.decode(latents), "a wider decoder")
    if torch.equal(before, wide.decode(latents)):
        raise SystemExit("widening changed nothing")
    if not wide.decoder[3].conv[0].weight[NARROW["dec"][0]:].abs().sum() > 0:
        raise SystemExit("new channels are dead")


@torch.no_grad()
def widths_of_a_file() -> None:
    whole = nets.TAEHV(**WIDE)
    half = {k: v for k, v in whole.state_dict().items() if k.startswith("decoder.")}
    latents = torch.randn(1, 2, 16, 4, 6)
    for weights in (whole.state_dict(), half):
        same(whole.decode(latents), nets.autoencoder(weights).decode(latents), "read again")
    for broken in ({k: v for k, v in half.items() if k != "decoder.3.conv.0.bias"}, half | {"decoder.99.bias": torch.zeros(1)}):
        try:
            nets.autoencoder(broken)
        except ValueError:
            continue
        raise SystemExit("half a decoder was taken for one")


def errors() -> None:
    square, on = torch.zeros(2, 3, 3, 4, 4), torch.zeros(2, 3, 1, 4, 4)
    square[0, :, :, :2], on[0, :, :, 0] = 4., 1.
    whole, subject = square_errors(square, on)
    if (whole.tolist(), subject.tolist()) != ([2., 0.], [4., 0.]):
        raise SystemExit(f"square errors: {whole} {subject}")


widened()
widths_of_a_file()
errors()
