# SPDX-License-Identifier: Apache-2.0
"""Contact sheets."""

from __future__ import annotations

import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def sheet(frames: Tensor, scale: float = 1.) -> Tensor:
    """[rows, columns, 3, h, w] in 0..1 -> one picture [3, H, W]."""
    rows, columns = frames.shape[:2]
    small = frames.flatten(0, 1).float()
    if scale != 1:
        small = F.interpolate(small, scale_factor=scale, mode="area")
    return small.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


def save(path: str, picture: Tensor) -> None:
    """Writes a picture [3, H, W] in 0..1 as PNG (colours to 6 bits, which keeps the file small)."""
    levels = (picture.clamp(0, 1) * 63).round() * (255 / 63)
    Image.fromarray(levels.round().byte().permute(1, 2, 0).cpu().numpy()).save(path, optimize=True)
