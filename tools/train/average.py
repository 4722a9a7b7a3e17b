# SPDX-License-Identifier: Apache-2.0
"""Stage 4, the mean of two sets of denoiser weights:

    python3 tools/train/average.py DIR base distilled mix --share .5

writes DIR/dit_mix_{1,2}.safetensors = (1 - share) * base + share * distilled.
"""

from __future__ import annotations

import argparse

from runtime import load_dit, save_dit


def average(directory: str, first: str, second: str, result: str, share: float) -> None:
    a, b = load_dit(directory, first), load_dit(directory, second)
    save_dit(directory, {k: v.lerp(b[k], share) for k, v in a.items()}, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("result")
    parser.add_argument("--share", type=float, default=.5, help="of the second")
    args = parser.parse_args()
    average(args.directory, args.first, args.second, args.result, args.share)


if __name__ == "__main__":
    main()
