"""The zoo's task files: `python -m models.mini.train.tasks`.

Japanese chat, asked in either language: what an expert in sums tends to lose.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from evoserve.manifest.load import write_text
from models.mini.train.chat import sample_chat
from models.mini.train.lexicon import ASK_LANGUAGE, LANGUAGES, Phrase, join

FOLDER = Path(__file__).parents[1] / "tasks"
SPLITS = ("search", "test")
_NUM_DRAWS = 4000


def main() -> None:
    """Write `tasks/chat-ja-search.jsonl` and `tasks/chat-ja-test.jsonl`."""
    for split, lines in build_chat().items():
        write_text(FOLDER / f"chat-ja-{split}.jsonl", "\n".join(lines) + "\n")


def build_chat(seed: int = 0) -> dict[str, list[str]]:
    """JSON lines by split: distinct prompts, in the order they are drawn, dealt out in turn."""
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for number, (prompt, reply) in enumerate(_exchanges(random.Random(seed)).items()):
        item = {"prompt": prompt, "answer": reply.ja, "metric": "rouge_l", "language": "ja"}
        splits[SPLITS[number % len(SPLITS)]].append(json.dumps(item, ensure_ascii=False))
    return splits


def _exchanges(rng: random.Random) -> dict[str, Phrase]:
    found: dict[str, Phrase] = {}
    for _ in range(_NUM_DRAWS):
        asked = rng.choice(LANGUAGES)
        question, reply = sample_chat(rng, asked)
        if asked == "en" or rng.random() < 0.5:
            wish = rng.choice(ASK_LANGUAGE["ja"][rng.choice(LANGUAGES)])
            question = join(asked, question, wish)
        found.setdefault(question, reply)
    return found


if __name__ == "__main__":
    main()
