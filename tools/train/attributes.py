# SPDX-License-Identifier: Apache-2.0
"""What the demo world can show: seven attributes, their values, and which combinations training never sees.

A scene is a dict from attribute name to the index of its value. The held-out combinations exist so that the
evaluation can ask for something the model was never shown; nothing else treats them specially.
"""

from __future__ import annotations

import random

Attributes = dict[str, int]

TIMES = ("dawn", "day", "sunset", "night")
TERRAINS = ("hills", "mountains", "desert", "sea")
WEATHERS = ("clear", "rain", "snow", "fog")
SUBJECTS = ("balloon", "bird", "plane", "kite", "airship", "sailboat")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "turquoise", "lime", "brown")
DIRECTIONS = ("left", "right")
SPEEDS = ("slow", "normal", "fast")

NAMES = ("tod", "ter", "wea", "sub", "col", "dir", "spd")
VALUES: dict[str, tuple[str, ...]] = dict(
    zip(NAMES, (TIMES, TERRAINS, WEATHERS, SUBJECTS, COLOURS, DIRECTIONS, SPEEDS), strict=True)
)
COUNT = {name: len(values) for name, values in VALUES.items()}

SEA = TERRAINS.index("sea")
SAILBOAT = SUBJECTS.index("sailboat")

HELD_OUT_SUBJECT_COLOUR = {(0, 5), (1, 3), (2, 6), (3, 1), (4, 2), (5, 4)}
HELD_OUT_TERRAIN_TIME_WEATHER = {(0, 3, 2), (2, 2, 2), (1, 1, 3), (3, 0, 1)}

# What a prompt change touches: drawn from this bag, so that the visible changes come more often than the speed.
_CHANGE_BAG = ("tod", "ter", "wea", "sub", "sub", "sub", "col", "col", "dir", "dir", "spd", "tod", "wea")


def possible(scene: Attributes) -> bool:
    """True where the renderer can draw it: a sailboat needs the sea."""
    return scene["sub"] != SAILBOAT or scene["ter"] == SEA


def trained(scene: Attributes) -> bool:
    """True for scenes that training may show."""
    if (scene["sub"], scene["col"]) in HELD_OUT_SUBJECT_COLOUR:
        return False
    if (scene["ter"], scene["tod"], scene["wea"]) in HELD_OUT_TERRAIN_TIME_WEATHER:
        return False
    return possible(scene)


def sample(rng: random.Random, held_out: bool = False) -> Attributes:
    """A random scene: one that training shows, or (`held_out`) a possible one that it never shows."""
    while True:
        scene = {name: rng.randrange(COUNT[name]) for name in NAMES}
        if rng.random() < 0.15:
            scene["wea"] = 0
        if scene["ter"] == SEA and rng.random() < 0.18:
            scene["sub"] = SAILBOAT
        if possible(scene) and trained(scene) != held_out:
            return scene


def change(scene: Attributes, rng: random.Random) -> Attributes:
    """Another scene of the training set that differs from `scene` in one or two attributes (more for a boat)."""
    while True:
        new = dict(scene)
        for name in rng.sample(_CHANGE_BAG, rng.choice((1, 1, 2))):
            new[name] = rng.randrange(COUNT[name])
        if not possible(new):
            if rng.random() < 0.5:
                new["ter"] = SEA
            else:
                new["sub"] = rng.randrange(SAILBOAT)
        if new != scene and trained(new):
            return new
