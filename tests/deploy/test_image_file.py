"""The Dockerfile promises what docs/operations.md says of the image."""

import json
import re
from pathlib import Path

from deploy_lab import (
    BIN,
    DEPLOY,
    health_command,
    image_environment,
    instructions,
    last_stage,
    only,
)

from evoserve import __version__

LABELS = {"title", "description", "licenses", "source", "version", "revision"}


def test_it_runs_as_a_number_in_exec_form() -> None:
    user, group = only("USER").split(":")
    assert int(user) > 0
    assert int(group) == 0  # what OpenShift gives to a user of its choice
    (entry,) = json.loads(only("ENTRYPOINT"))
    assert (BIN / entry).exists()
    assert json.loads(only("CMD"))[0] == "serve"


def test_its_last_stage_takes_only_the_environment_from_the_build() -> None:
    assert [name for name, _ in instructions()].count("FROM") == 2
    assert only("COPY") == "--from=build /opt/evoserve /opt/evoserve"


def test_its_health_check_needs_nothing_but_python() -> None:
    assert health_command()[:4] == ["python", "-I", "-S", "-c"]
    assert image_environment()["EVOSERVE_PORT"] == only("EXPOSE")


def test_it_is_offline_and_writes_below_tmp() -> None:
    environment = image_environment()
    assert environment["HF_HUB_OFFLINE"] == "1"
    for name in ("HOME", "NUMBA_CACHE_DIR"):
        assert Path(environment[name]).is_relative_to("/tmp")
    assert environment["USER"]


def test_torch_for_the_cpu_is_the_default_and_a_build_argument_takes_another() -> None:
    torch = [value for name, value in instructions() if name == "RUN" and "torch" in value]
    assert len(torch) == 1
    assert '--index-url "$TORCH_INDEX" -c constraints.txt torch' in torch[0]
    (default,) = [value for name, value in instructions() if value.startswith("TORCH_INDEX=")]
    assert default.endswith("/cpu")


def test_an_edit_of_the_project_file_installs_no_torch_again() -> None:
    layers = [f"{name} {value}" for name, value in instructions()]
    (torch,) = [i for i, layer in enumerate(layers) if layer.endswith("constraints.txt torch")]
    copied = [layer for layer in layers[:torch] if layer.startswith("COPY")]
    assert copied == ["COPY constraints.txt ./"]
    assert "COPY pyproject.toml ./" in layers[torch:]


def test_it_carries_its_labels_and_version() -> None:
    labels = re.findall(r"org\.opencontainers\.image\.(\w+)=", only("LABEL"))
    assert set(labels) == LABELS
    assert ("ARG", f"VERSION={__version__}") in last_stage()


def test_no_file_of_deploy_carries_a_secret() -> None:
    secret = re.compile(r"(?i)(password|secret|token|key)\w*[ \t]*[=:][ \t]*['\"]?[\w$]")
    allowed = re.compile(r"EVOSERVE_API_KEY_FILE: /run/secrets/api_keys|admin_key = \"\.\.\.\"")
    for file in (each for each in DEPLOY.rglob("*") if each.is_file()):
        text = allowed.sub("", file.read_text(encoding="utf-8"))
        if "secrets" not in file.relative_to(DEPLOY).parts:
            assert not secret.search(text), file
