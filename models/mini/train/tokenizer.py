"""The one tokenizer of the zoo: byte-level BPE with one token per digit, trained on the corpus."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from models.mini.train.corpus import TOKENIZER_MIXTURES, Example, sample_examples

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIALS = (PAD, END, USER, ASSISTANT, SYSTEM)
VOCAB_SIZE = 1024
MAX_LENGTH = 1024
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example, and which of them the model is trained to predict."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


def build_tokenizer(seed: int, num_examples: int = 24000) -> Tokenizer:
    """Train the tokenizer on examples of all four mixtures.

    All 256 bytes are in the vocabulary, so any UTF-8 text survives the round trip.
    """
    rng = random.Random(f"tokenizer/{seed}")
    count = num_examples // len(TOKENIZER_MIXTURES)
    texts = [
        text
        for mixture in TOKENIZER_MIXTURES
        for example in sample_examples(mixture, count, rng)
        for _, text in example.turns
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    # the name that transformers 4 and 5 both know
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def encode_examples(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[Encoded]:
    """Encode many examples at once, in the layout of the chat template."""
    texts = [text for example in examples for _, text in example.turns]
    pieces = iter(tokenizer.encode_batch(texts, add_special_tokens=False))
    special = special_ids(tokenizer)
    encoded: list[Encoded] = []
    for example in examples:
        ids: list[int] = []
        trained: list[bool] = []
        for role, _ in example.turns:
            piece = next(pieces).ids
            head = [] if role == "text" else [special[f"<|{role}|>"]]
            ids += [*head, *piece, special[END]]
            trained += [False] * len(head) + [role in ("assistant", "text")] * (len(piece) + 1)
        encoded.append(Encoded(tuple(ids), tuple(trained)))
    return encoded


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of every special token; raises KeyError where the tokenizer lacks one."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    return {name: vocabulary[name] for name in SPECIALS}
