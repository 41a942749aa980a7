"""What `docker build` would be sent: code, and nothing that is large or private."""

import fnmatch
import re
from pathlib import Path

from deploy_lab import ROOT, instructions


def patterns() -> list[tuple[str, bool]]:
    """(pattern, is it let in) of each line of .dockerignore; the last that matches decides."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    given = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return [(line.removeprefix("!"), line.startswith("!")) for line in given]


def matches(path: str, pattern: str) -> bool:
    """Does it match, or a folder above it? A `**/` in front is any number of folders."""
    parts = path.split("/")
    anywhere = pattern.removeprefix("**/")
    for end in range(1, len(parts) + 1):
        starts = range(end) if anywhere != pattern else (0,)
        for start in starts:
            found, wanted = parts[start:end], anywhere.split("/")
            if len(found) == len(wanted) and all(map(fnmatch.fnmatchcase, found, wanted)):
                return True
    return False


def is_sent(path: str) -> bool:
    sent = True
    for pattern, is_let_in in patterns():
        if matches(path, pattern):
            sent = is_let_in
    return sent


def context() -> list[Path]:
    """Every file of the checkout that would be sent."""
    let_in = [pattern for pattern, is_let_in in patterns() if is_let_in]
    tops = [ROOT / name for name in let_in]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*"))]
    return [f for f in files if f.is_file() and is_sent(f.relative_to(ROOT).as_posix())]


def test_weights_history_environments_results_and_secrets_stay_out() -> None:
    for path in (
        ".git/HEAD",
        ".venv/bin/python",
        "models/demo/smollm2-135m-instruct/model.safetensors",
        "models/mini/base/model.safetensors",
        "benchmarks/results/serve.json",
        "deploy/secrets/api_keys",
        "tests/conftest.py",
        "state.sqlite",
        "evoserve/__pycache__/errors.cpython-311.pyc",
        "evoserve/model/cpu/__pycache__/x.nbi",
        ".env",
    ):
        assert not is_sent(path), path


def test_code_is_sent() -> None:
    for path in ("pyproject.toml", "evoserve/errors.py", "evoserve/api/ui/index.html", "LICENSE"):
        assert (ROOT / path).exists(), path
        assert is_sent(path), path


def test_it_holds_only_text_and_little_of_it() -> None:
    files = context()
    assert len(files) > 100
    assert sum(file.stat().st_size for file in files) < 4 * 2**20
    for file in files:
        file.read_text(encoding="utf-8")


def test_it_is_what_the_dockerfile_copies() -> None:
    copies = [value for name, value in instructions() if name == "COPY" and "--from" not in value]
    copied = {source for value in copies for source in value.split()[:-1]}
    assert copied == {pattern for pattern, is_let_in in patterns() if is_let_in}
    assert all((ROOT / source).exists() for source in copied)


def test_patterns_match_as_docker_says() -> None:
    assert matches("a/b/c.pyc", "**/*.py[cod]")
    assert matches("c.pyc", "**/*.py[cod]")
    assert matches("a/b/c", "a")
    assert not matches("x/a/b", "a")
    assert not matches("ab/c", "a")
    assert re.fullmatch(r"\*", patterns()[0][0])
