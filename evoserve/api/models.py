"""What is served, and its tokenizers: /v1/models, /tokenize and /detokenize."""

from evoserve.api.messages import check_count, template_messages
from evoserve.api.registry import ServedRecipe
from evoserve.api.schemas import (
    DetokenizeAnswer,
    DetokenizeBody,
    ModelCard,
    ModelList,
    TokenizeAnswer,
    TokenizeBody,
)
from evoserve.api.tools import plan_tools
from evoserve.errors import RequestError
from evoserve.lifecycle.lifecycle import Lifecycle, Named


def list_models(lifecycle: Lifecycle) -> ModelList:
    """Every id and alias that a request may name."""
    cards = [model_card(name, named) for name, named in lifecycle.names().items()]
    return {"object": "list", "data": cards}


def model_card(name: str, named: Named) -> ModelCard:
    """One entry of the list."""
    return {
        "id": name,
        "object": "model",
        "created": named.created,
        "owned_by": "evoserve",
        "root": named.model_id,
        "max_model_len": named.max_model_len,
    }


async def tokenize(served: ServedRecipe, body: TokenizeBody) -> TokenizeAnswer:
    """Token ids of a prompt or of rendered messages. Raises RequestError."""
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("Send either 'prompt' or 'messages'.", param="prompt")
    if body.messages is not None:
        check_count(body.messages, served.max_model_len)
        text = served.tokenizer.render_chat(
            template_messages(body.messages),
            template=served.chat_template,
            tools=plan_tools(body.tools, None, None).templated(),
            add_generation_prompt=body.add_generation_prompt is not False,
        )
        is_special = bool(body.add_special_tokens)
        token_ids = await served.encode(text, add_special_tokens=is_special, param="messages")
    else:
        token_ids = await _tokenize_prompt(served, body)
    pieces = [served.tokenizer.token_piece(token_id) or "" for token_id in token_ids]
    return {
        "count": len(token_ids),
        "max_model_len": served.max_model_len,
        "tokens": token_ids,
        "token_strs": pieces if body.return_token_strs else None,
    }


def detokenize(served: ServedRecipe, body: DetokenizeBody) -> DetokenizeAnswer:
    """The text of token ids, special tokens included. Raises RequestError."""
    for index, token_id in enumerate(body.tokens):
        if served.tokenizer.token_piece(token_id) is None:
            raise RequestError(
                f"Invalid 'tokens[{index}]': {token_id} is no id of the vocabulary, whose ids are "
                f"from 0 to {served.tokenizer.vocab_size - 1}.",
                param=f"tokens[{index}]",
                code="invalid_value",
            )
    return {"prompt": served.tokenizer.decode(body.tokens, skip_special_tokens=False)}


async def _tokenize_prompt(served: ServedRecipe, body: TokenizeBody) -> list[int]:
    for name in ("tools", "add_generation_prompt"):
        if getattr(body, name) is not None:
            message = f"Invalid '{name}': it is part of a chat; send it with 'messages'."
            raise RequestError(message, param=name, code="invalid_value")
    is_special = body.add_special_tokens is not False
    return await served.encode(body.prompt or "", add_special_tokens=is_special)
