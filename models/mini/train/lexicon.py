"""Words and sentence templates of the word problems, side by side in English and Japanese.

Every entry has the two languages under one index, so a template id means the same thing in both
and holding a pair of templates out holds it out in both languages at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Language = Literal["en", "ja"]
LANGUAGES: tuple[Language, Language] = ("en", "ja")


@dataclass(frozen=True)
class Phrase:
    """One sentence template in both languages."""

    en: str
    ja: str

    def text(self, language: Language) -> str:
        return self.en if language == "en" else self.ja


@dataclass(frozen=True)
class Item:
    """A countable thing: English plural, Japanese noun and its counter word."""

    en: str
    ja: str
    counter: str


@dataclass(frozen=True)
class EventKind:
    """An event that changes the count: its operation (+, - or ×), label and phrasings."""

    op: str
    label: Phrase
    phrasings: tuple[Phrase, ...]


NAMES = (
    Phrase("Ken", "けん"),
    Phrase("Yui", "ゆい"),
    Phrase("Emma", "エマ"),
    Phrase("Tom", "トム"),
    Phrase("Mio", "みお"),
    Phrase("Ben", "ベン"),
    Phrase("Sora", "そら"),
    Phrase("Anna", "アンナ"),
    Phrase("Leo", "レオ"),
    Phrase("Hana", "はな"),
)

ITEMS = (
    Item("apples", "りんご", "こ"),
    Item("oranges", "みかん", "こ"),
    Item("eggs", "たまご", "こ"),
    Item("balls", "ボール", "こ"),
    Item("stones", "石", "こ"),
    Item("notebooks", "ノート", "さつ"),
    Item("books", "絵本", "さつ"),
    Item("cards", "カード", "まい"),
    Item("stamps", "切手", "まい"),
    Item("coins", "コイン", "まい"),
)

STARTS = (
    Phrase("{name} has {n} {item}.", "{name}は{item}を{n}{c}持っています。"),
    Phrase("There are {n} {item} in {name}'s box.", "{name}の箱に{item}が{n}{c}あります。"),
    Phrase("In the morning, {name} had {n} {item}.", "朝、{name}は{item}を{n}{c}持っていました。"),
    Phrase("{name} keeps {n} {item} at home.", "{name}は家に{item}を{n}{c}置いています。"),
    Phrase("{name} starts with {n} {item}.", "{name}は{item}{n}{c}から始めます。"),
    Phrase("{name} put {n} {item} on the table.", "{name}は机に{item}を{n}{c}並べました。"),
)

EVENTS = (
    EventKind(
        "+",
        Phrase("Buying", "買うと"),
        (
            Phrase("{name} buys {n} more.", "あと{n}{c}買います。"),
            Phrase("At the shop, {name} buys {n} {item}.", "店で{item}を{n}{c}買います。"),
        ),
    ),
    EventKind(
        "+",
        Phrase("Receiving", "もらうと"),
        (
            Phrase("{name} receives {n} from a friend.", "友だちから{n}{c}もらいます。"),
            Phrase("As a gift, {name} receives {n} {item}.", "お祝いに{item}を{n}{c}もらいます。"),
        ),
    ),
    EventKind(
        "+",
        Phrase("Finding", "見つけると"),
        (
            Phrase("{name} finds {n} on the road.", "道で{n}{c}見つけます。"),
            Phrase("In the garden, {name} finds {n} {item}.", "庭で{item}を{n}{c}見つけます。"),
        ),
    ),
    EventKind(
        "-",
        Phrase("Giving", "あげると"),
        (
            Phrase("{name} gives {n} to a sister.", "妹に{n}{c}あげます。"),
            Phrase("At school, {name} gives away {n} {item}.", "学校で{item}を{n}{c}あげます。"),
        ),
    ),
    EventKind(
        "-",
        Phrase("Losing", "なくすと"),
        (
            Phrase("{name} loses {n} of them.", "そのうち{n}{c}なくします。"),
            Phrase("On the train, {name} loses {n} {item}.", "電車で{item}を{n}{c}なくします。"),
        ),
    ),
    EventKind(
        "-",
        Phrase("Selling", "売ると"),
        (
            Phrase("{name} sells {n} of them.", "そのうち{n}{c}売ります。"),
            Phrase("At the market, {name} sells {n} {item}.", "市場で{item}を{n}{c}売ります。"),
        ),
    ),
    EventKind(
        "×",
        Phrase("Growing", "増えると"),
        (
            Phrase("The number grows {n} times.", "数が{n}倍に増えます。"),
            Phrase("By magic, the {item} grow {n} times.", "魔法で{item}が{n}倍に増えます。"),
        ),
    ),
    EventKind(
        "×",
        Phrase("Copying", "写すと"),
        (
            Phrase("A machine copies them {n} times.", "機械で{n}倍に写します。"),
            Phrase("{name} copies the {item} {n} times.", "{item}を{n}倍に写します。"),
        ),
    ),
    EventKind(
        "×",
        Phrase("Collecting", "集めると"),
        (
            Phrase("{name} collects {n} times as many.", "{n}倍まで集めます。"),
            Phrase("{name} collects {n} times the {item}.", "{item}を{n}倍まで集めます。"),
        ),
    ),
)

QUESTIONS = (
    Phrase("How many {item} does {name} have now?", "{name}の{item}は今いくつですか。"),
    Phrase("How many {item} are there in the end?", "最後に{item}はいくつありますか。"),
    Phrase("What is the number of {item} now?", "今の{item}の数はいくつですか。"),
    Phrase("How many are there in total?", "全部でいくつですか。"),
    Phrase("Tell me how many {item} there are.", "{item}がいくつあるか教えてください。"),
)

# Ways to ask for a reply language. The first one of each is used by the evaluation items.
ASK_LANGUAGE: dict[Language, dict[Language, tuple[str, ...]]] = {
    "en": {
        "en": ("Answer in English.", "Please reply in English."),
        "ja": ("英語で答えてください。", "英語でお願いします。"),
    },
    "ja": {
        "en": ("Answer in Japanese.", "Please reply in Japanese."),
        "ja": ("日本語で答えてください。", "日本語でお願いします。"),
    },
}


def join(language: Language, *parts: str) -> str:
    """Join sentences as the language does: by a space in English, directly in Japanese."""
    return (" " if language == "en" else "").join(part for part in parts if part)
