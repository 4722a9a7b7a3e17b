#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The caption grammar, and the sentences from outside it that the evaluation uses."""

from __future__ import annotations

import json
import os
import random
import re
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tools", "train"))
import attributes  # noqa: E402
import captions  # noqa: E402


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w'-]+", text.lower()))


def corpus(count: int) -> list[str]:
    rng, out = random.Random(5), []
    for i in range(count):
        scene = attributes.sample(rng, held_out=i % 4 == 0)
        out.append(captions.describe(scene, rng, captions.TRAINED_OMISSION))
        out.append(captions.instruct(scene, attributes.change(scene, rng), rng))
    return out


class SurePhrases(unittest.TestCase):
    def test_weak_ones_are_replaced(self) -> None:
        for weak, sure in (("mountains in snowy weather", "mountains while snow falls"), ("In snowy weather, a bird", "while snow falls, a bird"),
                           ("kite, snowy, mountains", "kite, snowfall, mountains"), ("in fine weather", "in clear weather"),
                           ("kite, fine weather", "kite, clear sky"), ("while it rains", "while rain falls")):
            self.assertEqual(captions.surely(weak), sure)

    def test_snowy_mountains_are_no_weather(self) -> None:
        for text in ("over snowy mountains at dawn", "Snowy mountains at dawn"):
            self.assertEqual(captions.surely(text), text)

    def test_nothing_weak_is_left(self) -> None:
        texts = corpus(3000)
        self.assertTrue(any(captions.surely(t) != t for t in texts))
        for text in texts:
            self.assertEqual(captions.surely(captions.surely(text)), captions.surely(text))


class Paraphrases(unittest.TestCase):
    def setUp(self) -> None:
        with open(os.path.join(ROOT, "tools", "eval", "paraphrases.json"), encoding="utf-8") as f:
            self.kinds = json.load(f)
        self.known = set().union(*map(words, corpus(20000)))

    def test_each_shows_one_possible_scene(self) -> None:
        named = {v: k for k in attributes.NAMES for v in attributes.VALUES[k]}
        for rows in self.kinds.values():
            for text, shows in rows:
                scene = {named[v]: attributes.VALUES[named[v]].index(v) for v in shows.split()}
                self.assertEqual(sorted(scene), sorted(set(attributes.NAMES) - {"spd"}), text)
                self.assertTrue(attributes.possible(scene), text)

    def test_words_are_known_or_new_as_said(self) -> None:
        for text, _ in self.kinds["known words"]:
            self.assertEqual(words(text) - self.known, set(), text)
        for text, _ in self.kinds["new words"]:
            self.assertTrue(words(text) - self.known, text)

    def test_suggestions_use_known_words(self) -> None:
        offered = captions.suggestions()
        for text in [*offered["sentences"], *offered["turns"], *(w for slot in offered["slots"] for w in slot["words"])]:
            self.assertEqual(words(text) - self.known, set(), text)


if __name__ == "__main__":
    unittest.main()
