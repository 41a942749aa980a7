"""What the served model must say and what texts are worth, by transformers alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM


@dataclass(frozen=True)
class Said:
    """A greedy answer and its counts, as OpenAI words them."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Oracle:
    """The model of a folder, in float32."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = LlamaForCausalLM.from_pretrained(folder).eval()

    def chat(self, messages: Sequence[dict[str, Any]], max_tokens: int) -> Said:
        text = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False
        )
        ids = self.encode(text)
        said = self.greedy(ids, max_tokens)
        is_over = said[-1] == self.tokenizer.eos_token_id
        words = self.tokenizer.decode(said, skip_special_tokens=True)
        return Said(words, "stop" if is_over else "length", len(ids), len(said))

    def greedy(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        """Generated ids, the end token among them."""
        given = torch.tensor([list(ids)])
        mask = torch.ones_like(given)
        out = self.model.generate(
            given, attention_mask=mask, do_sample=False, max_new_tokens=max_tokens, pad_token_id=0
        )
        return out[0, len(ids) :].tolist()

    def loglikelihood(self, context: str, continuation: str) -> tuple[float, bool]:
        """Of the continuation's tokens, and whether each of them is the likeliest."""
        return self.score(self.encode(context), self.encode(continuation))

    @torch.no_grad()
    def score(self, before: Sequence[int], ids: Sequence[int]) -> tuple[float, bool]:
        """`loglikelihood` of token ids."""
        given = torch.tensor([[*before, *ids]])
        logits = self.model(given).logits[0, len(before) - 1 : -1]
        wanted = torch.tensor(list(ids))
        scores = logits.double().log_softmax(-1).gather(1, wanted[:, None])
        return float(scores.sum()), bool((logits.argmax(-1) == wanted).all())

    @torch.no_grad()
    def likeliest(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """The likeliest token after each pair of texts, all of which have equally many tokens."""
        ids = torch.tensor([self.encode(first + last) for first, last in pairs])
        best: list[int] = self.model(ids).logits[:, -1].argmax(-1).tolist()
        return best

    def encode(self, text: str) -> list[int]:
        """Token ids and nothing around them."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids
