"""Finding sources: catalogue, folders, the Hugging Face cache and a hub on loopback."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from evoserve.config import Settings
from evoserve.errors import SourceError
from evoserve.manifest.parts import AdapterSpec, SourceSpec
from evoserve.sources.catalogue import CatalogueEntry, load_catalogue
from evoserve.sources.locate import SourceLocator, build_locator, is_offline

REPOSITORY = Path(__file__).parents[3]
COMMIT = "a" * 40


@pytest.fixture
def model(tmp_path: Path, save_model: Callable[..., Path]) -> Path:
    return save_model(tmp_path / "models" / "tiny")


def locator(tmp_path: Path, **fields: object) -> SourceLocator:
    """Offline, with an empty Hugging Face cache of its own."""
    plain = SourceLocator(base=tmp_path, offline=True, hub_cache=tmp_path / "hub")
    return dataclasses.replace(plain, **fields)


def find(where: SourceLocator, model: str, revision: str | None = None) -> Path:
    return where.locate("src", SourceSpec(model=model, revision=revision))


def test_a_folder_absolute_or_relative(tmp_path: Path, model: Path) -> None:
    assert find(locator(tmp_path), str(model)) == model
    assert find(locator(tmp_path), "models/tiny") == model
    assert find(locator(tmp_path / "models"), "./tiny") == model
    assert find(locator(model), "../tiny") == model


def test_the_catalogue_comes_first(tmp_path: Path, model: Path) -> None:
    other = tmp_path / "models" / "other"
    model.rename(other)
    (tmp_path / "name").mkdir()
    catalogue = {
        "name": CatalogueEntry(path=other),
        "alias": CatalogueEntry(model="name"),
    }
    where = locator(tmp_path, catalogue=catalogue)
    assert find(where, "name") == find(where, "alias") == other
    with pytest.raises(SourceError, match=r"'src'.*has no revision 'main'"):
        find(where, "alias", "main")


def test_a_catalogue_that_goes_in_circles(tmp_path: Path) -> None:
    catalogue = {
        "a": CatalogueEntry(model="b"),
        "b": CatalogueEntry(model="c"),
        "c": CatalogueEntry(model="a"),
    }
    with pytest.raises(SourceError, match="a -> b -> c -> a"):
        find(locator(tmp_path, catalogue=catalogue), "a")


def test_roots_hold_whatever_the_spelling(tmp_path: Path, model: Path) -> None:
    inside = tmp_path / "allowed"
    inside.mkdir()
    (inside / "link").symlink_to(model)
    where = locator(tmp_path, roots=(inside,), catalogue={"named": CatalogueEntry(path=model)})
    for spelling in (str(model), "allowed/link", "allowed/../models/tiny", "models/tiny", "named"):
        with pytest.raises(SourceError, match="outside the allowed source_roots"):
            find(where, spelling)
    moved = inside / "tiny"
    model.rename(moved)
    assert find(where, "allowed/tiny") == moved
    (tmp_path / "entry").symlink_to(moved)
    assert find(where, "entry") == moved
    (tmp_path / "root").symlink_to(inside)
    assert find(dataclasses.replace(where, roots=(tmp_path / "root",)), "allowed/tiny") == moved


@pytest.mark.parametrize(
    "name", ["/nowhere/at/all", "../gone", "a/b/c", "x\x00y", "x" * 900, "~/m", "..", "..a/b"]
)
def test_nothing_there_says_what_was_tried(tmp_path: Path, name: str) -> None:
    where = locator(tmp_path, catalogue={"mini/base": CatalogueEntry(path=tmp_path)})
    with pytest.raises(SourceError, match=r"source 'src'.*(mini/base|no config.json)"):
        find(where, name)


def test_pickle_is_never_read(tmp_path: Path, model: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({}, model / "pytorch_model.bin")
    with pytest.raises(
        SourceError, match=r"pickle weights \(pytorch_model.bin\), only safetensors is read"
    ):
        find(locator(tmp_path), str(model))


def test_an_adapter_is_no_source_and_the_other_way_round(tmp_path: Path, model: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    spec = AdapterSpec(model="adapter")
    with pytest.raises(SourceError, match=r"adapter of source 'src'.*no adapter_config.json"):
        locator(tmp_path).locate_adapter("src", spec)
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"no config.json; it holds an adapter"):
        find(locator(tmp_path), "adapter")
    with pytest.raises(SourceError, match=r"no adapter_model.safetensors"):
        locator(tmp_path).locate_adapter("src", spec)
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(SourceError, match=r"pickle weights \(adapter_model.bin\)"):
        locator(tmp_path).locate_adapter("src", spec)
    (adapter / "adapter_model.safetensors").write_text("")
    assert locator(tmp_path).locate_adapter("src", spec) == adapter


def cache(tmp_path: Path, model: Path, revision: str) -> Path:
    """Lay `model` into the Hugging Face cache as org/tiny at `revision`."""
    storage = tmp_path / "hub" / "models--org--tiny"
    (storage / "refs").mkdir(parents=True, exist_ok=True)
    (storage / "refs" / revision).write_text(COMMIT)
    snapshot = storage / "snapshots" / COMMIT
    snapshot.parent.mkdir(exist_ok=True)
    model.rename(snapshot)
    return snapshot


def test_the_hub_cache_is_used_offline(tmp_path: Path, model: Path) -> None:
    with pytest.raises(SourceError, match=r"org/tiny@v1 is not in.*HF_HUB_OFFLINE is set"):
        find(locator(tmp_path), "org/tiny", "v1")
    snapshot = cache(tmp_path, model, "v1")
    assert find(locator(tmp_path), "org/tiny", "v1") == snapshot
    assert find(locator(tmp_path), "org/tiny", COMMIT) == snapshot
    entry = CatalogueEntry(model="org/tiny", revision="v1")
    where = locator(tmp_path, catalogue={"short": entry, "org/tiny": entry})
    assert find(where, "short") == find(where, "org/tiny") == snapshot
    with pytest.raises(SourceError, match="org/tiny@v2"):
        find(where, "short", "v2")
    with pytest.raises(SourceError, match="is not in the Hugging Face cache"):
        find(locator(tmp_path), "org/tiny")
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="is incomplete in the Hugging Face cache"):
        find(locator(tmp_path), "org/tiny", "v1")


def test_a_revision_skips_the_folder_of_that_name(tmp_path: Path, model: Path) -> None:
    (tmp_path / "org").mkdir()
    model.rename(tmp_path / "org" / "tiny")
    assert find(locator(tmp_path), "org/tiny") == tmp_path / "org" / "tiny"
    with pytest.raises(SourceError, match="not in the Hugging Face cache"):
        find(locator(tmp_path), "org/tiny", "v1")
    for revision in ("../../refs", "/etc/passwd", "", "a/../b", "-x"):
        with pytest.raises(SourceError, match="is no branch, tag or commit"):
            find(locator(tmp_path), "org/tiny", revision)


@pytest.fixture
def hub(model: Path) -> Iterator[tuple[str, list[str]]]:
    """A hub on loopback that holds org/tiny: its address and the files it was asked for."""
    (model / "evil.py").write_text("raise SystemExit")
    torch.save({}, model / "pytorch_model.bin")
    served: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, *, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            if path.startswith("/api/models/org/tiny/revision/"):
                body = json.dumps({"id": "org/tiny", "sha": COMMIT}).encode()
            elif path.startswith(f"/api/models/org/tiny/tree/{COMMIT}"):
                tree = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f.name}
                    for f in model.iterdir()
                ]
                body = json.dumps(tree).encode()
            elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
                file = model / path.rpartition("/")[2]
                body = file.read_bytes()
                if with_body:
                    served.append(file.name)
            else:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{path.rpartition("/")[2]}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", served
    server.shutdown()
    thread.join()
    server.server_close()


LOCATE_IN_TURN = """
import sys
from evoserve.errors import SourceError
from evoserve.manifest.parts import SourceSpec
from evoserve.sources.locate import SourceLocator
for model in sys.argv[1:]:
    try:
        print(SourceLocator().locate("src", SourceSpec(model=model)))
    except SourceError as error:
        print(error)
"""


def test_a_download_brings_safetensors_and_no_code(
    tmp_path: Path, model: Path, hub: tuple[str, list[str]]
) -> None:
    """In a process of its own: huggingface_hub reads its settings when it is imported."""
    endpoint, served = hub
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
        environment.pop(name, None)
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    run = [sys.executable, "-c", LOCATE_IN_TURN, "org/tiny", "org/tiny", "org/unknown"]
    done = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, again, unknown = done.stdout.splitlines()
    assert again == first
    wanted = ["config.json", "generation_config.json", "model.safetensors"]
    assert sorted(file.name for file in Path(first).iterdir()) == wanted
    assert sorted(served) == wanted
    weights = (Path(first) / "model.safetensors").read_bytes()
    assert weights == (model / "model.safetensors").read_bytes()
    assert unknown.startswith("source 'src': 'org/unknown' was not found")
    assert "cannot be downloaded" in unknown


def test_offline_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        assert is_offline({name: "1"})
        assert is_offline({name: "true"})
        assert not is_offline({name: "0"})
    assert not is_offline({})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert SourceLocator().offline


def test_catalogue_files(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text(
        '[sources."a/b"]\npath = "x/../y"\nlicense = "MIT"\n'
        '[sources.c]\nmodel = "org/name"\nrevision = "v1"\n'
    )
    entries = load_catalogue(file)
    assert entries["a/b"] == CatalogueEntry(path=tmp_path / "x/../y", license="MIT")
    assert entries["c"] == CatalogueEntry(model="org/name", revision="v1")
    for text, message in [
        ("[sources.a]", "give either path or model"),
        ('[sources.a]\npath = "x"\nmodel = "y"', "give either path or model"),
        ('[sources.a]\npath = "x"\nrevision = "y"', "a local path has no revision"),
        ("[sources.a]\npath = 3", "sources.a.path = 3"),
        ('[sources.a]\nmodel = ""', "sources.a.model = ''"),
        ('[sources.a]\nmodle = "x"', "unknown key 'modle'"),
        ('[source.a]\nmodel = "x"', "'source' is not expected"),
        ("sources = 1", "'sources' is not expected"),
        ('[sources]\na = "x"', "sources.a: must be a table"),
        ("[sources", "catalogue.toml"),
    ]:
        file.write_text(text)
        with pytest.raises(SourceError, match="catalogue") as caught:
            load_catalogue(file)
        assert message in str(caught.value)
    with pytest.raises(SourceError, match="gone"):
        load_catalogue(tmp_path / "gone.toml")


def test_the_shipped_catalogue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(REPOSITORY)
    shipped = build_locator(Settings())
    assert {"mini/base", "mini/ja", "mini/math", "mini/math2", "mini/math-lora"} <= set(
        shipped.catalogue
    )
    for name, entry in shipped.catalogue.items():
        assert entry.path == REPOSITORY / "models" / name or not name.startswith("mini/")
    monkeypatch.chdir(tmp_path)
    bare = build_locator(Settings(source_roots=(tmp_path,)), base=Path("sub"))
    assert bare.catalogue == {}
    assert bare.roots == (tmp_path,)
    assert bare.base == tmp_path / "sub"
