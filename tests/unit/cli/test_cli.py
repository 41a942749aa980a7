"""The command: exit codes, one-line errors, and what each subcommand does with real recipes."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from evoserve.cli.main import main
from evoserve.cli.output import console, errors
from evoserve.cli.recipes import find_recipes
from evoserve.config import Settings, load_settings
from evoserve.errors import ConfigError
from evoserve.manifest.canonical import digest
from evoserve.manifest.load import load_manifest

ROOT = Path(__file__).parents[3]
MINI = ROOT / "models" / "mini"
RECIPES = ROOT / "models" / "recipes"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command as the shell would: (exit code, stdout, stderr)."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "200")
    for each in (console, errors):  # what a test runner sets as COLUMNS was read at import
        monkeypatch.setattr(each, "width", 200)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["evoserve", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        captured = capsys.readouterr()
        return int(code or 0), captured.out, captured.err

    return call


def document(**changes: object) -> dict[str, object]:
    merge = {"method": "dare_ties", "base": "base", "weights": {"ja": 0.5}, "seed": 1}
    sources = {name: {"model": str(MINI / name)} for name in ("base", "ja")}
    return {
        "format": "evoserve/1",
        "name": "r",
        "sources": sources,
        "merges": {"ps": merge},
        **changes,
    }


def save(folder: Path, value: object) -> Path:
    file = folder / "recipe.json"
    file.write_text(json.dumps(value))
    return file


def test_shipped_recipes_pass_check_and_verify(run: Run) -> None:
    files = sorted(RECIPES.glob("mini-*.json"))
    code, out, _ = run("check", *files)
    assert (code, out.count("ok mini-")) == (0, len(files))
    code, out, _ = run("verify", *files)
    assert (code, out.count("as in the manifest")) == (0, len(files))


def test_inspect_draws_groups_path_and_scales(run: Run) -> None:
    code, out, _ = run("inspect", RECIPES / "mini-dfs.json")
    assert code == 0
    assert "ja    0123·4·5" in out
    assert "math  ····3·4·" in out
    assert "mlp_output: ja[0:4] x0.9 math[3] x0.95 ja[4] x0.85 math[4] x1.05 ja[5]" in out
    assert digest(load_manifest(RECIPES / "mini-dfs.json")) in out
    code, out, _ = run("inspect", RECIPES / "mini-dare-ties.json")
    assert "layers[2:4].self_attn" in out


def test_diff_lists_what_differs(run: Run, tmp_path: Path) -> None:
    one = RECIPES / "mini-ties.json"
    other = tmp_path / "other.json"
    value = json.loads(one.read_text())
    value["description"] = "renamed"
    other.write_text(json.dumps(value))
    code, out, _ = run("diff", one, other)
    assert code == 0
    assert "same weights and path" in out
    value["merges"]["ps"]["weights"]["ja"] = 0.25
    other.write_text(json.dumps(value))
    code, out, _ = run("diff", one, other)
    assert code == 1
    assert "merges.ps.weights.ja: 1.0 -> 0.25" in out


def test_pin_then_a_changed_byte_is_refused(run: Run, tmp_path: Path) -> None:
    for name in ("base", "ja"):
        shutil.copytree(MINI / name, tmp_path / name)
    value = document(sources={n: {"model": f"./{n}"} for n in ("base", "ja")})
    recipe = save(tmp_path, value)
    assert run("pin", recipe)[0] == 0
    assert load_manifest(recipe).sources["ja"].digest is not None
    assert run("verify", recipe)[0] == 0
    weights = tmp_path / "ja" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    code, _, err = run("verify", recipe)
    assert code == 2
    assert "source 'ja'" in err or "'ja'" in err
    assert len(err.strip().splitlines()) == 1


def test_export_and_import_round_trip(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    code, printed, _ = run("export", RECIPES / "mini-ps-dfs.json", "-o", out)
    assert code == 0, printed
    assert {"config.json", "README.md", "tokenizer.json"} <= {f.name for f in out.iterdir()}
    code, _, err = run("export", RECIPES / "mini-ps-dfs.json", "-o", out)
    assert code == 2
    assert str(out) in err
    mergekit = tmp_path / "ties.yaml"
    assert run("export", RECIPES / "mini-ties.json", "-o", mergekit, "--format", "mergekit")[0] == 0
    assert yaml.safe_load(mergekit.read_text())["merge_method"] == "ties"
    back = tmp_path / "back.json"
    assert run("import", mergekit, "-o", back)[0] == 0
    assert load_manifest(back).merges[load_manifest(back).default_model].method == "ties"


def test_chat_answers_once(run: Run) -> None:
    code, out, _ = run(
        "chat",
        RECIPES / "mini-ties.json",
        "-m",
        "Hello!",
        "--temperature",
        "0",
        "--max-tokens",
        "8",
    )
    assert code == 0
    assert out.strip()


def test_chat_follows_the_recipe_s_generation_defaults(run: Run, tmp_path: Path) -> None:
    recipe = save(tmp_path, document(generation={"temperature": 0, "max_tokens": 3}))
    _, short, _ = run("chat", recipe, "-m", "Hello! Who are you?")
    _, long, _ = run("chat", recipe, "-m", "Hello! Who are you?", "--max-tokens", "12")
    assert short.strip()
    assert len(short) < len(long)
    assert long.startswith(short.rstrip("\n"))
    code, _, err = run("chat", recipe, "-m", "Hello!", "--max-tokens", "100000")
    assert code == 2
    assert "maximum context length" in err


BAD_RECIPES: dict[str, tuple[dict[str, object], str]] = {
    "unknown key": (document(colour=1), "colour"),
    "wrong version": (document(format="evoserve/2"), "format"),
    "unknown source": (document(path=["nobody[0:6]"], merges={}), "nobody"),
    "missing folder": (document(sources={"base": {"model": "./absent"}}, merges={}), "absent"),
    "path traversal": (
        document(sources={"base": {"model": "/etc"}}, merges={}),
        "config.json",
    ),
    "layer out of range": (document(path=["base[0:99]"], merges={}), "layers 0 to 5"),
    "wrong end": (document(path=["base[0:5]", "ja[5]"], merges={}, head="base"), "path[-1]"),
    "empty path": (document(path=[]), "path"),
}


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_bad_recipes_exit_2_with_one_clear_line(run: Run, tmp_path: Path, case: str) -> None:
    value, named = BAD_RECIPES[case]
    code, out, err = run("check", save(tmp_path, value))
    assert (code, out) == (2, "")
    assert named in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_broken_weights_exit_2_and_leave_nothing(run: Run, tmp_path: Path) -> None:
    for name in ("base", "ja"):
        shutil.copytree(MINI / name, tmp_path / name)
    recipe = save(tmp_path, document(sources={n: {"model": f"./{n}"} for n in ("base", "ja")}))
    weights = tmp_path / "ja" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    code, _, err = run("export", recipe, "-o", tmp_path / "out")
    assert code == 2
    assert "model.safetensors" in err
    weights.write_bytes(whole)
    tensors = load_file(weights)
    broken = {n: t.clone() for n, t in tensors.items()}
    broken["model.norm.weight"][0] = float("nan")
    save_file(broken, weights, metadata={"format": "pt"})
    code, _, err = run("chat", recipe, "-m", "Hi")
    assert code == 2
    assert "model.norm.weight" in err
    narrow = {n: (t[:, :64].contiguous() if t.ndim == 2 else t) for n, t in tensors.items()}
    save_file(narrow, weights, metadata={"format": "pt"})
    code, _, err = run("check", recipe)
    assert code == 2
    assert "shape" in err
    del tensors["model.norm.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    code, _, err = run("check", recipe)
    assert code == 2
    assert "model.norm.weight" in err
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_source_roots_keep_recipes_inside(run: Run, tmp_path: Path) -> None:
    recipe = save(tmp_path, document())
    code, _, err = run("check", recipe, "--source-roots", tmp_path)
    assert code == 2
    assert "source_roots" in err


def test_settings_come_from_flag_over_environment_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("port = 1\nblock_size = 8\nmax_num_seqs = 3\n")
    monkeypatch.setenv("EVOSERVE_PORT", "2")
    monkeypatch.setenv("EVOSERVE_BLOCK_SIZE", "32")
    settings = load_settings(file, port=3)
    assert (settings.port, settings.block_size, settings.max_num_seqs) == (3, 32, 3)
    assert settings.host == Settings().host
    with pytest.raises(ConfigError, match="port"):
        load_settings(None, port=99999)
    file.write_text("prot = 1\n")
    with pytest.raises(ConfigError, match="prot"):
        load_settings(file)


@pytest.mark.parametrize("name", ["api_key", "admin_key"])
@pytest.mark.parametrize("key", ["", " ", "secret\n", " secret"])
def test_a_key_that_would_be_everybody_s_or_nobody_s_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, key: str
) -> None:
    monkeypatch.setenv(f"EVOSERVE_{name.upper()}", key)
    with pytest.raises(ConfigError, match=f"setting '{name}': .*blank") as caught:
        load_settings()
    assert "secret" not in str(caught.value)


def test_every_setting_is_a_flag_with_its_environment_name(run: Run) -> None:
    code, out, _ = run("serve", "--help")
    assert code == 0
    for name in Settings.model_fields:
        assert "--" + name.replace("_", "-") in out
        assert f"env: EVOSERVE_{name.upper()})" in " ".join(out.replace("│", " ").split())


def test_a_watched_folder_s_other_files_are_no_recipes(tmp_path: Path) -> None:
    for name in ("b.json", "a.yaml", "aliases.yaml", ".hidden.json", "notes.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in find_recipes([tmp_path])] == ["a.yaml", "b.json"]
