"""Prompts of the serving benchmark, by seed: two sets of other texts and lengths.

A prompt begins with words of its own, so that a server's prefix cache finds no more than the chat
template; every server gets the same prompts within a round.
"""

import random
from collections.abc import Callable
from functools import partial

_PEOPLE = "Ada Boris Chandra Dolores Emil Farida Goro Hanna Igor Jun Kofi Lena Mateo Nadia"
_WORK = "baker gardener teacher sailor nurse carpenter librarian painter farmer tailor"
_DEEDS = "carried sorted counted painted repaired sold borrowed hid weighed delivered"
_THINGS = "lamps baskets letters apples chairs maps bottles coats bells ropes stones"
_PLACES = "market harbour school garden station mill library bridge kitchen village"
_TIMES = ("at dawn", "before lunch", "in the rain", "after work", "on Sunday", "late at night")
_ASKS = (
    "Continue the story with one more day.",
    "Who did the most work, and why do you think so?",
    "Write a short letter about it to a friend.",
    "Say what happened in other words.",
)

_TOPICS = "rivers glaciers volcanoes tides deserts forests reefs caves storms islands"
_FIELDS = "geology physics trade history cooking music medicine law sport chess"
_CLAIMS = (
    "{a} shape {b} more slowly than most books on {c} admit",
    "a student of {c} should compare {a} with {b} first",
    "the link between {a} and {b} was disputed for {n} years",
    "{n} measurements of {a} contradict what {c} says about {b}",
    "without {a} there would be few {b}, as {c} teaches",
)
_TASKS = (
    "Summarise this in one paragraph.",
    "List three objections.",
    "Explain it to a child.",
    "Which of these claims is the weakest?",
)


def write_prompts(kind: str, seed: str, count: int) -> list[str]:
    """`count` prompts of the set `kind` (a key of SETS); the same ones for the same seed."""
    source = random.Random(f"{kind}:{seed}")
    return [SETS[kind](source) for _ in range(count)]


def _story(source: random.Random) -> str:
    """40 to 110 words about people at work."""
    pick = partial(_pick, source)
    parts = [f"{pick(_PEOPLE)} {source.randrange(100, 999)} and {pick(_PEOPLE)} met."]
    for _ in range(source.randint(3, 9)):
        parts.append(
            f"The {pick(_WORK)} {pick(_DEEDS)} {source.randint(2, 60)} {pick(_THINGS)} at the "
            f"{pick(_PLACES)} {source.choice(_TIMES)}."
        )
    return " ".join([*parts, source.choice(_ASKS)])


def _essay(source: random.Random) -> str:
    """A line or two, or 150 to 220 words, about the same number of each."""
    pick = partial(_pick, source)
    size = source.choice((1, source.randint(13, 18)))
    parts = [f"Note {source.randrange(1000, 9999)} on {pick(_FIELDS)}:"]
    for _ in range(size):
        a, b = source.sample(_TOPICS.split(), 2)
        n = source.randint(2, 400)
        parts.append(source.choice(_CLAIMS).format(a=a, b=b, c=pick(_FIELDS), n=n) + ";")
    return " ".join([*parts, source.choice(_TASKS)])


def _pick(source: random.Random, words: str) -> str:
    return source.choice(words.split())


SETS: dict[str, Callable[[random.Random], str]] = {"main": _story, "second": _essay}
