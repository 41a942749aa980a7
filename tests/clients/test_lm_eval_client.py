"""lm-eval's `local-completions`: log-likelihoods over HTTP are those of transformers itself."""

import string

import pytest

pytest.importorskip("tenacity", reason="the extra `clients` is not installed")

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager
from lm_eval_lab import values, write_docs, write_task

PAIRS = [
    ("The capital of France is", " Paris"),
    ("a", "b"),
    ("日本の首都は", "東京です。"),
    ("1 + 1 =", " 2\n"),
    ("x" * 300, " and more of it"),
]


@pytest.fixture(scope="module")
def make_model(server):
    def make(**options: object) -> LocalCompletionsAPI:
        return LocalCompletionsAPI(
            base_url=f"{server.url}/completions", model="tiny", tokenizer=str(server.folder),
            tokenizer_backend="huggingface", max_retries=1, max_length=4096, **options,
        )  # fmt: skip

    return make


def asked(pairs: list[tuple[str, str]]) -> list[Instance]:
    return [
        Instance("loglikelihood", {}, pair, index, ("task", index, 1))
        for index, pair in enumerate(pairs)
    ]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("is_tokenized", [True, False])
def test_loglikelihoods_are_those_of_transformers(
    make_model, oracle, batch_size: int, is_tokenized: bool
) -> None:
    model = make_model(batch_size=batch_size, tokenized_requests=is_tokenized)
    found = model.loglikelihood(asked(PAIRS), disable_tqdm=True)
    for (score, is_greedy), pair in zip(found, PAIRS, strict=True):
        expected = oracle.loglikelihood(*pair)
        assert score == pytest.approx(expected[0], abs=1e-4)
        assert is_greedy is expected[1]


def test_the_last_token_counts_also_where_the_model_would_end_after_it(make_model, oracle) -> None:
    """lm-eval drops the last token listed, which must be the generated one, the end or not."""
    pairs = [(first, last) for first in string.ascii_letters for last in string.ascii_letters]
    end = oracle.tokenizer.eos_token_id
    ending = [
        pair for pair, best in zip(pairs, oracle.likeliest(pairs), strict=True) if best == end
    ]
    assert ending, "the model ends nowhere"
    for found, pair in zip(
        make_model().loglikelihood(asked(ending), disable_tqdm=True), ending, strict=True
    ):
        assert found[0] == pytest.approx(oracle.loglikelihood(*pair)[0], abs=1e-4)


def test_a_task_gets_the_metrics_of_the_model_itself(
    make_model, server, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    write_task(tmp_path, "choose", write_docs(tmp_path, "en", 6))
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    options = {"tasks": ["choose"], "task_manager": tasks, "bootstrap_iters": 0}
    options["log_samples"] = True
    ours = lm_eval.simple_evaluate(make_model(batch_size=4), **options)
    local = f"pretrained={server.folder},dtype=float32"
    theirs = lm_eval.simple_evaluate("hf", model_args=local, device="cpu", **options)
    for metric in ("acc", "acc_norm"):
        assert values(ours["samples"]["choose"], metric, "none") == values(
            theirs["samples"]["choose"], metric, "none"
        )
    for mine, its in zip(ours["samples"]["choose"], theirs["samples"]["choose"], strict=True):
        found = [float(answer[0][0]) for answer in mine["resps"]]
        expected = [float(answer[0][0]) for answer in its["resps"]]
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-4)


def test_text_is_generated_until_its_stop(make_model, oracle) -> None:
    ids = oracle.greedy(oracle.encode("ab"), 8)
    text = oracle.tokenizer.decode(ids)
    until = {"until": [text[3]], "max_gen_toks": 8, "do_sample": False}
    (said,) = make_model().generate_until(
        [Instance("generate_until", {}, ("ab", until), 0, ("task", 0, 1))], disable_tqdm=True
    )
    assert said == text[: text.index(text[3])]
