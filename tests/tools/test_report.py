#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Figures that were aimed at: how they are joined from results and judged."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path[:0] = [os.path.join(ROOT, "tools", "eval"), os.path.join(ROOT, "bench")]
import report  # noqa: E402
import result  # noqa: E402


class Verdicts(unittest.TestCase):
    def test_a_number(self) -> None:
        said = result.verdicts({"a": dict(value=3), "b": dict(value=3)}, {"a": (">=", 3), "b": ("<=", 2.5)})
        self.assertEqual(said, {"a": "met: 3 >= 3", "b": "MISSED: 3 <= 2.5"})

    def test_so_many_times_another_plus(self) -> None:
        metrics: result.Metrics = {"a": dict(value=28), "b": dict(value=28.4), "c": dict(value=10)}
        said = result.verdicts(metrics, {"a": (">=", 1, "b", -.5), "c": (">=", .5, "b")})
        self.assertEqual(said["a"], "met: 28 >= 27.9 (1 x b -0.5)")
        self.assertTrue(said["c"].startswith("MISSED: 10 >= 14.2"))

    def test_what_was_not_taken_is_left_out(self) -> None:
        self.assertEqual(result.verdicts({"a": dict(value=1)}, {"b": (">=", 1), "a": (">=", 1, "peer")}), {})


class Report(unittest.TestCase):
    def test_joins_what_is_there_and_says_of_which_run(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run = dict(commit="0123456789ab", machine="m", metrics=dict(adherence_loss_hsa85_points=dict(value=.5, unit="points")))
            with open(os.path.join(folder, "demo-ablation-tuned.json"), "w") as f:
                json.dump(run, f)
            got = report.joined(folder)
        self.assertEqual(set(got), {"adherence_loss_hsa85_tuned_points", "weights_mib"})
        self.assertEqual(got["adherence_loss_hsa85_tuned_points"],
                         dict(value=.5, unit="points", result="demo-ablation-tuned", machine="m", commit="0123456"))
        self.assertIn("| `adherence_loss_hsa85_tuned_points` | 0.5 points |  | `demo-ablation-tuned`, m, 0123456 |", report.table(got))

    def test_the_documents_are_what_the_results_say(self) -> None:
        for path in report.DOCUMENTS:
            with open(path, encoding="utf-8") as f:
                text = f.read()
            self.assertEqual(report.replaced(text, report.table(report.joined(report.RESULTS)), path), text,
                             "run tools/eval/report.py --only join")

    def test_a_card_without_marks_is_left_alone(self) -> None:
        with self.assertRaises(SystemExit):
            report.replaced("no marks", "table\n")


if __name__ == "__main__":
    unittest.main()
