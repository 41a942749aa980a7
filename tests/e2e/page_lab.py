"""What the page is tested against: a server over the mini zoo, and a model that writes markup."""

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
RECIPES = {
    name: ROOT / "models" / "recipes" / f"mini-{name}.json"
    for name in ("ties", "dfs", "ps-dfs", "dare-ties")
}
CHROMIUM = Path(shutil.which("chromium") or "/usr/bin/chromium")
MARKUP = ("<img src=x onerror=alert(1)>", "<script>alert(2)</script>")


def save_markup_llama(tiny: Path, folder: Path) -> Path:
    """The tiny Llama, whose likeliest token is always one of `MARKUP` and never the end.

    All rows of its head are zero but two, which are each other's negative.
    """
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(list(MARKUP))
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.resize_token_embeddings(len(tokenizer))
    row = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[-2] = row
        model.lm_head.weight[-1] = -row
    model.save_pretrained(folder)
    return folder


def hostile_manifest(folder: Path) -> dict[str, object]:
    """A manifest over `folder` whose texts are markup wherever any text may stand."""
    image, script = MARKUP
    return {
        "format": "evoserve/1",
        "name": "endless",
        "description": f"{image}{script}\u202egnihton",
        "license": image,
        "sources": {"base": {"model": str(folder)}},
        "evaluation": [{"task": image, "metric": script, "score": 1.0, "num_items": 1}],
        "provenance": {image: script, "by\u202e": "\u202e\u0007"},
    }
