# SPDX-License-Identifier: Apache-2.0
"""Captions for scenes: a grammar with synonyms, free order of the parts, several sentence shapes, parts left out, and
short instructions that name only what changes ("now it is snowing").

`describe` writes a caption, `instruct` an instruction, `suggestions` what a user interface may offer.
"""

from __future__ import annotations

import random
import re

from attributes import COLOURS, DIRECTIONS, NAMES, SPEEDS, SUBJECTS, TERRAINS, TIMES, VALUES, WEATHERS, Attributes

SUBJECT_WORDS = dict(
    balloon=["hot-air balloon", "hot-air balloon", "balloon", "hot air balloon", "air balloon"],
    bird=["bird", "bird", "songbird", "little bird"],
    plane=["paper plane", "paper airplane", "paper aeroplane", "paper glider"],
    kite=["kite", "kite", "diamond kite", "paper kite"],
    airship=["airship", "zeppelin", "blimp", "dirigible"],
    sailboat=["sailboat", "sailing boat", "boat", "yacht", "sailing ship"])
COLOUR_WORDS = dict(
    red=["red", "red", "crimson", "scarlet", "bright red"], orange=["orange", "orange", "tangerine", "bright orange"],
    yellow=["yellow", "yellow", "golden", "bright yellow"], green=["green", "green", "emerald", "dark green"],
    blue=["blue", "blue", "azure", "deep blue"], purple=["purple", "purple", "violet", "lilac"],
    pink=["pink", "pink", "rose", "rosy"], white=["white", "white", "ivory", "snow-white"],
    turquoise=["turquoise", "teal", "cyan"], lime=["lime", "lime green"], brown=["brown", "chestnut", "dark brown"])
TERRAIN_WORDS = dict(
    hills=["green hills", "rolling hills", "grassy hills", "the hills", "meadows", "a green valley"],
    mountains=["snowy mountains", "mountain peaks", "alpine peaks", "mountains", "the mountains", "the alps"],
    desert=["desert dunes", "sand dunes", "the desert", "a sandy desert", "the dunes"],
    sea=["the sea", "the ocean", "calm sea waves", "the water", "the waves", "open water"])
TIME_WORDS = dict(
    dawn=["at dawn", "at sunrise", "in the early morning", "at daybreak", "at first light"],
    day=["at noon", "in daylight", "during the day", "on a bright day", "in the afternoon", "at midday", "by day"],
    sunset=["at sunset", "at dusk", "in the evening glow", "in the evening", "as the sun sets", "at sundown"],
    night=["at night", "under the stars", "at midnight", "by moonlight", "under the moon", "on a starry night"])
TIME_TAGS = dict(dawn=["dawn", "sunrise", "early morning", "daybreak"], day=["daytime", "noon", "daylight", "day"],
                 sunset=["sunset", "dusk", "evening"], night=["night", "midnight", "starry night"])
WEATHER_WORDS = dict(
    clear=["under a clear sky", "in clear weather", "in fine weather"],
    rain=["in the rain", "while rain falls", "during a rain shower", "in rainy weather", "in rainy weather",
          "while it rains", "in a downpour"],
    # said twice: "weather" is what rain and snow share, "snowy" is also what mountains are
    snow=["while snow falls", "in the snow", "in a gentle snowfall", "as snowflakes drift down", "while it snows",
          "in snowy weather", "in snowy weather"],
    fog=["in the fog", "through thick fog", "in misty weather", "wrapped in mist", "in a haze", "in foggy weather"])
WEATHER_TAGS = dict(clear=["clear sky", "clear", "fine weather"], rain=["rain", "rainy", "raining", "rain shower"],
                    snow=["snow", "snowfall", "snowing", "snowy"], fog=["fog", "mist", "foggy", "misty"])
SPEED_WORDS = dict(slow=["slowly", "gently", "calmly"], normal=[""], fast=["fast", "quickly", "swiftly"])
VERBS = dict(balloon=["drift", "float", "fly"], bird=["fly", "glide", "flap", "soar"],
             plane=["glide", "fly", "soar", "sail"], kite=["fly", "dance", "soar", "flutter"],
             airship=["cruise", "float", "fly", "drift"], sailboat=["sail", "cruise", "glide"])
FORMS = dict(drift=("drifts", "drifting"), float=("floats", "floating"), fly=("flies", "flying"),
             glide=("glides", "gliding"), flap=("flaps", "flapping"), soar=("soars", "soaring"),
             sail=("sails", "sailing"), dance=("dances", "dancing"), flutter=("flutters", "fluttering"),
             cruise=("cruises", "cruising"), move=("moves", "moving"), head=("heads", "heading"),
             travel=("travels", "travelling"))
# Phrases that are misread now and then -> others of the same meaning that are not (some hundreds of prompts through the engine)
SURE = {r"in fine weather": "in clear weather", r"fine weather": "clear sky", r"while it snows": "while snow falls",
        r"while it rains": "while rain falls", r"in snowy weather": "while snow falls", r"snowy(?! mountains)": "snowfall"}
PREPOSITIONS = ["over", "above", "across"]
TRAINED_OMISSION = 0.09  # probability that a training caption leaves out any one of its parts


def _join(*parts: str) -> str:
    return " ".join(p for p in parts if p)


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _words(scene: Attributes) -> dict[str, str]:
    return {name: VALUES[name][scene[name]] for name in NAMES}


def _noun(rng: random.Random, w: dict[str, str]) -> str:
    """The subject with its colour, without an article."""
    subject, colour = rng.choice(SUBJECT_WORDS[w["sub"]]), rng.choice(COLOUR_WORDS[w["col"]])
    shape = rng.random()
    if shape < .90:
        return f"{colour} {subject}"
    return f"{subject} in {colour}" if shape < .95 else f"{colour} coloured {subject}"


def _motion(rng: random.Random, w: dict[str, str], form: int, heading: bool) -> str:
    """What the subject does: form 0 "drifts slowly left", 1 "drifting slowly left"."""
    verb = rng.choice(VERBS[w["sub"]] + (["move", "travel"] if rng.random() < .15 else []))
    to = ""
    if heading:
        to = rng.choice(["{}", "{}", "to the {}", "towards the {}", "{}wards"]).format(w["dir"])
        if rng.random() < .08:
            verb = "head"
    speed = rng.choice(SPEED_WORDS[w["spd"]])
    parts = [speed, to] if rng.random() < .7 else [to, speed]
    return _join(FORMS[verb][form], *parts)


def describe(scene: Attributes, rng: random.Random, omit: float = 0.0) -> str:
    """A caption of the scene. `omit`: the probability with which each part other than the subject is left out; at 0 the
    caption names everything, a clear sky too, except the usual speed."""
    w, ch = _words(scene), rng.choice

    def keep(phrase: str) -> str:
        return "" if rng.random() < omit else phrase

    heading = rng.random() >= omit * .5
    terrain = ch(TERRAIN_WORDS[w["ter"]])
    preposition = ch(PREPOSITIONS) if w["sub"] != "sailboat" else ch(["on", "across", "over"])
    place = keep(f"{preposition} {terrain}")
    when = keep(ch(TIME_WORDS[w["tod"]]))
    if w["tod"] == "day" and omit and rng.random() < .25:
        when = ""
    weather = keep(ch(WEATHER_WORDS[w["wea"]]))
    if w["wea"] == "clear" and omit and rng.random() < .55:
        weather = ""
    noun, shape = _noun(rng, w), rng.random()
    around = [place, when, weather]
    if rng.random() < .55:
        rng.shuffle(around)
    if shape < .34:
        text = _join(ch(["a", "a", "a", "the", "one"]).replace("a", _article(noun).split()[0]), noun,
                     _motion(rng, w, 0, heading), *around)
    elif shape < .52:
        front = next((p for p in rng.sample(around, 3) if p), "")
        rest = [p for p in around if p != front]
        text = _join(front + "," if front else "", _article(noun), _motion(rng, w, 0, heading), *rest)
    elif shape < .66:
        text = _join(_join(terrain if place else "", when, weather) + ch([",", ".", ", with"]) if any(around) else "",
                     _article(noun), _motion(rng, w, ch([0, 1]), heading))
    elif shape < .80:
        tags = [noun, _join(ch(["facing", "moving", "heading", "flying"]), w["dir"]) if heading else "",
                ch(SPEED_WORDS[w["spd"]]), terrain if place else "", ch(TIME_TAGS[w["tod"]]) if when else "",
                ch(WEATHER_TAGS[w["wea"]]) if weather else ""]
        if rng.random() < .6:
            rng.shuffle(tags)
        text = ch([", ", ", ", " "]).join(t for t in tags if t)
    elif shape < .92:
        lead = ch(["", "there is", "we see", "show", "show me", "picture", "a video of", "imagine", "now", "a scene with"])
        text = _join(lead, _article(noun), _motion(rng, w, 1, heading), *around)
    else:
        adjective = dict(zip(TIMES, ("morning", "daytime", "evening", "night"), strict=True))[w["tod"]]
        scene_noun = dict(zip(TERRAINS, ("hill", "mountain", "desert", "sea"), strict=True))[w["ter"]]
        text = _join(_article(f"{adjective} {scene_noun} scene"), weather, ch(["with", "and", "where"]), _article(noun),
                     _motion(rng, w, 1, heading))
    return _finish(text, rng)


def _finish(text: str, rng: random.Random) -> str:
    text = text.strip().strip(",").strip()
    if rng.random() < .35:
        text = text[0].upper() + text[1:] + rng.choice(["", "."])
    return text


def instruct(old: Attributes, new: Attributes, rng: random.Random) -> str:
    """An instruction that names only what differs between two scenes."""
    w, ch, parts = _words(new), rng.choice, []
    subject = ch(SUBJECT_WORDS[w["sub"]])
    changed = {name for name in NAMES if old[name] != new[name]}
    if "sub" in changed:
        parts.append(ch(["{} comes along", "now {}", "replace it with {}", "change it to {}"]).format(_article(_noun(rng, w))))
    elif "col" in changed:
        colour = ch(COLOUR_WORDS[w["col"]])
        parts.append(ch([f"the {subject} turns {colour}", f"make the {subject} {colour}", f"now the {subject} is {colour}"]))
    if "dir" in changed or "spd" in changed:
        to = f"to the {w['dir']}" if "dir" in changed else ""
        speed = ch([s or "at normal speed" for s in SPEED_WORDS[w["spd"]]]) if "spd" in changed else ""
        parts.append(_join(ch(["it now flies", "now it moves", f"the {subject} moves"]), speed, to))
    if "tod" in changed:
        parts.append(ch(["now it is {}", "make it {}", "{} comes"]).format(ch(TIME_TAGS[w["tod"]])))
    if "wea" in changed:
        parts.append(dict(clear=ch(["the sky clears up", "the weather clears up", "now the sky is clear"]),
                          rain=ch(["it starts to rain", "now it is raining", "make it rain"]),
                          snow=ch(["it starts to snow", "now it is snowing", "make it snow"]),
                          fog=ch(["fog rolls in", "now it is foggy", "make it foggy"]))[w["wea"]])
    if "ter" in changed:
        parts.append(ch(["now over {}", "change to {}", "move on to {}", "now we see {}"]).format(ch(TERRAIN_WORDS[w["ter"]])))
    if rng.random() < .5:
        rng.shuffle(parts)
    return _finish(ch([", ", " and "]).join(parts), rng)


def surely(text: str) -> str:
    """The caption with sure phrases for weak ones (SURE)."""
    for weak, sure in SURE.items():
        text = re.sub(rf"\b{weak}\b", sure, text, flags=re.IGNORECASE)
    return text


def canonical_words() -> dict[str, str]:
    """For words that the grammar has gained: a known word of the same meaning, from which training starts."""
    same: dict[str, str] = {}
    tables = (SUBJECT_WORDS, COLOUR_WORDS, TIME_TAGS, WEATHER_TAGS)
    for table in tables:
        for phrases in table.values():
            for phrase in phrases:
                for word in phrase.split():
                    same.setdefault(word, phrases[0].split()[-1])
    verbs = {form: FORMS["fly"][0] for forms in FORMS.values() for form in forms}
    same.update(verbs)
    same.update(turquoise="green", teal="green", cyan="blue", lime="green", brown="orange", chestnut="orange",
                swiftly="fast", calmly="slowly", leftwards="left", rightwards="right", alps="mountains",
                valley="hills", water="sea", waves="sea", dunes="desert", midday="noon", afternoon="noon",
                sundown="sunset", evening="sunset", moon="night", moonlight="night", haze="fog", downpour="rain")
    return same


def suggestions() -> dict[str, object]:
    """What a page may offer: whole sentences, turns of a running picture, and the words that fit each slot."""
    words = (("thing", [SUBJECT_WORDS[v][0] for v in SUBJECTS]), ("colour", list(COLOURS)),
             ("place", [TERRAIN_WORDS[v][0] for v in TERRAINS]), ("time", [TIME_WORDS[v][0] for v in TIMES]),
             ("weather", [WEATHER_WORDS[v][0] for v in WEATHERS]), ("way", list(DIRECTIONS)),
             ("pace", [SPEED_WORDS[v][0] for v in SPEEDS if SPEED_WORDS[v][0]]))
    return dict(
        sentences=[
            "a red hot-air balloon drifts left over snowy mountains at dawn under a clear sky",
            "a yellow paper plane glides right over green hills at noon under a clear sky",
            "a white sailboat sails left on the sea at sunset under a clear sky",
            "a turquoise kite dances right above sand dunes in the evening under a clear sky",
            "a purple bird flies left over mountain peaks at night while snow falls",
            "an orange airship cruises right over the ocean at sunrise in the fog",
            "a pink balloon floats slowly left over meadows at noon in the rain",
            "a green bird glides right over the desert at night under a clear sky"],
        turns=["at sunset", "at night", "at dawn", "at noon", "in the rain", "while snow falls", "in the fog",
               "under a clear sky"],
        slots=[dict(name=name, words=list_) for name, list_ in words])
