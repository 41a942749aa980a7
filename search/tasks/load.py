"""Tasks from JSONL files and from MGSM's table."""

import json
from collections.abc import Iterator
from pathlib import Path

from search.tasks.item import Generation, Item, Protocol, Split, Task, TaskError
from search.tasks.parse import parse_item

MGSM_JA_TEMPLATE = (
    "以下に、あるタスクを説明する指示があります。リクエストを適切に完了するための回答を日本語で"
    "記述してください。一歩一歩考えましょう。\n\n### 指示:\n{input}\n\n### 応答:"
)
MGSM_STOP = ("Instruction:", "Instruction", "Response:", "Response")


def load_items(file: Path) -> tuple[Item, ...]:
    """The items of a JSONL file, one object a line. Raises TaskError that names file and line."""
    items = tuple(parse_item(record, where) for where, record in _records(file))
    if not items:
        raise TaskError(f"{file}: holds no items")
    return items


def load_mgsm(file: Path, language: str, protocol: Protocol = "paper") -> Task:
    """MGSM's 250 questions as the paper asked them: the test, never to be searched on.

    `file` is the published table: question, tab, answer. The score is the paper's `acc_ja` for
    Japanese: the number is right and the reply is Japanese.
    """
    items = []
    for number, line in enumerate(_lines(file), start=1):
        question, tab, answer = line.rpartition("\t")
        if not tab:
            raise TaskError(f"{file}:{number}: no tab between question and answer")
        record = {"prompt": question, "answer": answer.replace(",", ""), "language": language}
        items.append(parse_item(record, f"{file}:{number}"))
    template = MGSM_JA_TEMPLATE if language == "ja" else "{input}"
    return Task(
        name=f"mgsm_{language}",
        split="test",
        items=tuple(items),
        generation=Generation(max_new_tokens=1024, stop=MGSM_STOP, template=template),
        protocol=protocol,
        require_language=language == "ja",
    )


def check_searchable(task: Task, *, force: bool = False) -> None:
    """Raises TaskError if a search would see a test set; `force` is the user's own risk."""
    if task.split == "test" and not force:
        raise TaskError(
            f"task '{task.name}' is a test set; searching on it would void its score. Use the "
            "search or validation split, or force it knowingly"
        )


def check_disjoint(tasks: dict[Split, Task]) -> None:
    """Raises TaskError that quotes the first question which two splits share."""
    seen: dict[str, Split] = {}
    for split, task in tasks.items():
        for item in task.items:
            other = seen.setdefault(item.prompt, split)
            if other != split:
                raise TaskError(
                    f"splits {other} and {split} share the question {item.prompt!r:.80}"
                )


def _records(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    for number, line in enumerate(_lines(file), start=1):
        where = f"{file}:{number}"
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise TaskError(f"{where}: is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise TaskError(f"{where}: must be a JSON object")
        yield where, record


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{file}: {error}") from None
    return [line for line in text.split("\n") if line.strip()]
