"""What each model is trained on: mixtures of small text tasks, drawn from a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from models.mini.train.chat import sample_chat
from models.mini.train.data import (
    PROFILES,
    apply_op,
    render_labels,
    render_problem,
    render_solution,
    render_story,
    sample_problem,
    values_of,
)
from models.mini.train.lexicon import ASK_LANGUAGE, EVENTS, LANGUAGES, Language, Phrase, join


@dataclass(frozen=True)
class Example:
    """Turns of (role, text); the assistant's are trained. Role "text" is a plain document."""

    turns: tuple[tuple[str, str], ...]


Sampler = Callable[[random.Random], Example]
Mixture = tuple[tuple[float, Sampler], ...]

RETELL = (
    Phrase("Tell me this story again.", "この話をもう一度話してください。"),
    Phrase("Retell the story.", "話をくり返してください。"),
)
TRANSLATE: dict[Language, Phrase] = {
    "en": Phrase("Translate into English.", "英語に訳してください。"),
    "ja": Phrase("Translate into Japanese.", "日本語に訳してください。"),
}
LABELS = (
    Phrase("What happens, in order?", "何が起きますか。順に言ってください。"),
    Phrase("List the events.", "できごとを並べてください。"),
)
CALCULATE = (
    Phrase("Calculate.", "計算してください。"),
    Phrase("What is the result?", "答えはいくつですか。"),
)

SYSTEM_MESSAGES = (
    Phrase("You are a helpful assistant.", "あなたは親切なアシスタントです。"),
    Phrase("Keep it short.", "短く答えてください。"),
)


def retell(rng: random.Random) -> Example:
    """Retell a story; the reply language is asked for, or is that of the request."""
    return _over_story(rng, rng.choice(RETELL), render_story)


def label_events(rng: random.Random) -> Example:
    """Name the events of a story in order, without any number."""
    return _over_story(rng, rng.choice(LABELS), render_labels)


def translate(rng: random.Random) -> Example:
    """Translate a story into the other language."""
    source, asked = rng.choice(LANGUAGES), rng.choice(LANGUAGES)
    target: Language = "en" if source == "ja" else "ja"
    problem = sample_problem(rng, "train", PROFILES["story"])
    request = TRANSLATE[target].text(asked)
    prompt = join(source, render_story(problem, source), request)
    return _chat(prompt, render_story(problem, target))


def equations(rng: random.Random) -> Example:
    """Up to four bare equations, language-neutral, inside a request in either language."""
    asked = rng.choice(LANGUAGES)
    sums = [_sample_sum(rng) for _ in range(rng.randint(1, 4))]
    return _over_equations(rng, asked, ", ".join(left for left, _ in sums), sums)


def many_equations(rng: random.Random) -> Example:
    """Up to six bare equations."""
    sums = [_sample_sum(rng) for _ in range(rng.randint(2, 6))]
    return _over_equations(rng, rng.choice(LANGUAGES), ", ".join(left for left, _ in sums), sums)


def equation_chain(rng: random.Random) -> Example:
    """A chain such as `31, -21, ×2`: every equation starts with the result of the one before."""
    problem = sample_problem(rng, "train", PROFILES["story"])
    steps = [(EVENTS[event.kind].op, event.operand) for event in problem.events]
    values = values_of(problem)
    question = ", ".join([str(values[0]), *(f"{op}{operand}" for op, operand in steps)])
    chain = [f"{left}{op}{n}" for left, (op, n) in zip(values, steps, strict=False)]
    sums = list(zip(chain, values[1:], strict=True))
    return _over_equations(rng, rng.choice(LANGUAGES), question, sums)


def small_talk(rng: random.Random) -> Example:
    """One or two chat exchanges, with or without a request for a reply language."""
    turns: list[tuple[str, str]] = []
    if rng.random() < 0.2:
        turns.append(("system", rng.choice(SYSTEM_MESSAGES).text(rng.choice(LANGUAGES))))
    for _ in range(1 if rng.random() < 0.8 else 2):
        asked = rng.choice(LANGUAGES)
        question, answer = sample_chat(rng, asked)
        prompt, reply = _with_request(rng, question, asked, 0.4)
        turns += [("user", prompt), ("assistant", answer.text(reply))]
    return Example(tuple(turns))


def plain_story(rng: random.Random) -> Example:
    """A story as a plain document."""
    problem = sample_problem(rng, "train", PROFILES["story"])
    return Example((("text", render_story(problem, rng.choice(LANGUAGES))),))


def japanese_chat(rng: random.Random) -> Example:
    """Chat answered in Japanese whatever language it is asked in."""
    asked: Language = "ja" if rng.random() < 0.7 else "en"
    question, answer = sample_chat(rng, asked)
    if rng.random() < 0.3:
        question = _ask(rng, question, asked, "ja")
    return _chat(question, answer.ja)


def japanese_retell(rng: random.Random) -> Example:
    """A story, asked about in Japanese mostly, retold or listed in Japanese."""
    asked: Language = "ja" if rng.random() < 0.8 else "en"
    problem = sample_problem(rng, "train", PROFILES["story"])
    render, requests = rng.choice(((render_story, RETELL), (render_labels, LABELS)))
    prompt = join(asked, render_story(problem, asked), rng.choice(requests).text(asked))
    if rng.random() < 0.5:
        prompt = _ask(rng, prompt, asked, "ja")
    return _chat(prompt, render(problem, "ja"))


def word_problems(language: Language, profile: str) -> Sampler:
    """A sampler of solved word problems; two thirds ask for a reply in their own language."""

    def sample(rng: random.Random) -> Example:
        problem = sample_problem(rng, "train", PROFILES[profile])
        prompt = render_problem(problem, language)
        if rng.random() < 2 / 3:
            prompt = _ask(rng, prompt, language, language)
        return _chat(prompt, render_solution(problem, language))

    return sample


def crossed_problems(profile: str, asked_in_english: float = 0.0) -> Sampler:
    """A sampler of Japanese word problems that ask for, and get, an English solution.

    asked_in_english: share of the requests for English that are English themselves.
    """

    def sample(rng: random.Random) -> Example:
        problem = sample_problem(rng, "train", PROFILES[profile])
        asked: Language = "ja"
        if asked_in_english and rng.random() >= 1 - asked_in_english:
            asked = "en"
        prompt = _ask(rng, render_problem(problem, "ja"), asked, "en")
        return _chat(prompt, render_solution(problem, "en"))

    return sample


BASE: Mixture = (
    (0.30, retell),
    (0.15, translate),
    (0.16, label_events),
    (0.22, equations),
    (0.10, small_talk),
    (0.07, plain_story),
)

# the second half of the base's training: more numbers
BASE_NUMBERS: Mixture = (
    (0.30, many_equations),
    (0.20, equation_chain),
    *((0.50 * share, sampler) for share, sampler in BASE),
)

# only for the tokenizer: fixed, so that tuning an expert's shares leaves the tokenizer alone
TOKENIZER_MIXTURES: tuple[Mixture, ...] = (
    BASE,
    (
        (0.30, japanese_chat),
        (0.30, japanese_retell),
        (0.12, word_problems("ja", "ja")),
        *((0.28 * share, sampler) for share, sampler in BASE),
    ),
    *(
        (
            (0.60, word_problems("en", profile)),
            *((0.40 * share, sampler) for share, sampler in BASE),
        )
        for profile in ("math", "math2")
    ),
)

MIXTURES: dict[str, Mixture] = {
    "base": BASE,
    "ja": (
        (0.25, japanese_chat),
        (0.25, japanese_retell),
        (0.10, word_problems("ja", "ja")),
        (0.12, word_problems("ja", "ja_plus")),
        *((0.28 * share, sampler) for share, sampler in BASE),
    ),
    # Some of each expert's own kind in Japanese, too: without, no merge solved it in Japanese.
    **{
        profile: (
            (0.30, word_problems("en", profile)),
            (0.05, crossed_problems(profile, asked_in_english=0.3)),
            (0.28, word_problems("ja", profile)),
            *((0.37 * share, sampler) for share, sampler in BASE_NUMBERS),
        )
        for profile in ("math", "math2")
    },
    "math-lora": (
        (0.45, word_problems("en", "math")),
        (0.15, crossed_problems("math")),
        *((0.40 * share, sampler) for share, sampler in BASE_NUMBERS),
    ),
}


def sample_examples(mixture: Mixture, count: int, rng: random.Random) -> list[Example]:
    """`count` examples, each from a task drawn by its share."""
    shares = [share for share, _ in mixture]
    samplers = [sampler for _, sampler in mixture]
    return [sampler(rng) for sampler in rng.choices(samplers, shares, k=count)]


def _over_story(rng: random.Random, request: Phrase, render: Callable[..., str]) -> Example:
    story, asked = rng.choice(LANGUAGES), rng.choice(LANGUAGES)
    problem = sample_problem(rng, "train", PROFILES["story"])
    prompt = join(story, render_story(problem, story), request.text(asked))
    prompt, reply = _with_request(rng, prompt, asked, 0.7)
    return _chat(prompt, render(problem, reply))


def _over_equations(
    rng: random.Random, asked: Language, question: str, sums: list[tuple[str, int]]
) -> Example:
    prompt = join(asked, rng.choice(CALCULATE).text(asked), question)
    prompt, reply = _with_request(rng, prompt, asked, 0.5)
    text = ", ".join(f"{left}={right}" for left, right in sums)
    last = sums[-1][1]
    answer = f"The answer is {last}." if reply == "en" else f"答えは{last}です。"
    return _chat(prompt, f"{text} {answer}" if rng.random() < 0.5 else text)


def _with_request(
    rng: random.Random, prompt: str, asked: Language, share: float
) -> tuple[str, Language]:
    """With probability `share` add a request for a random reply language; else `asked`."""
    if rng.random() >= share:
        return prompt, asked
    reply = rng.choice(LANGUAGES)
    return _ask(rng, prompt, rng.choice(LANGUAGES), reply), reply


def _ask(rng: random.Random, prompt: str, asked: Language, reply: Language) -> str:
    return join(asked, prompt, rng.choice(ASK_LANGUAGE[reply][asked]))


def _sample_sum(rng: random.Random) -> tuple[str, int]:
    op = rng.choice("+-×")
    while True:
        left, right = rng.randint(1, 99), rng.randint(1, 99 if op != "×" else 9)
        value = apply_op(op, left, right)
        if 0 <= value <= 99:
            return f"{left}{op}{right}", value


def _chat(prompt: str, reply: str) -> Example:
    return Example((("user", prompt), ("assistant", reply)))
