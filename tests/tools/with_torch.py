# SPDX-License-Identifier: Apache-2.0
"""First import of tests of tools/train: puts that folder on the path; without PyTorch or safetensors the test ends as skipped (77)."""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tools", "train"))

try:
    import safetensors  # noqa: F401
    import torch  # noqa: F401
except ImportError as e:
    print(e)
    sys.exit(77)
