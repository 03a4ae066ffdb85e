"""The drivers `kserve` and `seldon` against a real API server, as the service account of the chart may."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import require_or_skip
from tests.parts import platform, serving
from tests.parts.kube import helm, schemas
from tests.parts.kube.cluster import Cluster, cluster, unavailable
from tests.serving.test_kills import Place, kill_at_steps, registry_in
from tests.serving.test_storage_uri import PLATFORMS, SOURCE_URI, URI, uri_in
from tta_agent.core.errors import SwapError
from tta_agent.core.types import ServerInfo
from tta_agent.serving.clients.storage_uri import SOURCE, StorageUriDriver
from tta_agent.serving.server.app import make_app
from tta_agent.serving.swap import bring_up

pytestmark = pytest.mark.k8s
DEFINITION = Path(__file__).parents[1] / "parts" / "kube" / "seldon-model-crd.yaml"


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The API server with KServe's definition, and the part of Seldon's that is used."""
    require_or_skip("kube", unavailable())
    with cluster(tmp_path_factory.mktemp("kube")) as found:
        for path in (schemas.crd("InferenceService"), DEFINITION):
            found.kubectl("apply", "--server-side", "-f", str(path))
        serving.eventually(found.knows_definitions, 60)
        yield found


class Object:
    """A custom resource, by the administrator."""

    def __init__(self, kube: Cluster, namespace: str, plural: str) -> None:
        self._kube, self._where = kube, ("-n", namespace, f"{plural}/tiny")

    def get(self) -> dict[str, Any]:
        found: dict[str, Any] = self._kube.get("--show-managed-fields", *self._where)
        return found

    def report(self, status: Mapping[str, Any]) -> None:
        change = json.dumps({"status": status})
        self._kube.kubectl("patch", *self._where, "--subresource=status", "--type=merge", "-p", change)


def service_account(kube: Cluster, namespace: str, name: str, folder: Path) -> Path:
    """The folder of the service account that the chart makes, with its rights."""
    driver = ("--set", f"settings.swap.driver={name}", "--set", "rbac.resourceNames={tiny}")
    text = helm.render(*driver, case="central-kserve").replace(
        "namespace: tta\n", f"namespace: {namespace}\n"
    )
    wanted = [one for one in helm.manifests(text) if one["kind"] in ("ServiceAccount", "Role", "RoleBinding")]
    assert len(wanted) == 3
    kube.kubectl("apply", "-n", namespace, "-f", "-", given=yaml.safe_dump_all(wanted))
    token = kube.kubectl("create", "token", "-n", namespace, wanted[0]["metadata"]["name"])[0].strip()
    made = platform.account(folder / "account", namespace, token)
    (made / "ca.crt").write_bytes((kube.folder / "certs" / "apiserver.crt").read_bytes())
    return made


@contextmanager
def running(kube: Cluster, name: str, folder: Path) -> Iterator[tuple[StorageUriDriver, Object, Path]]:
    driver, make, plural, status = PLATFORMS[name]
    namespace = kube.namespace(f"{name}-{folder.name.replace('_', '-')[-30:]}".lower())
    volume, graphs = folder / "volume", serving.GraphFolder(folder)
    (volume / "deployed").mkdir(parents=True)
    (volume / "deployed" / "model.onnx").write_bytes(graphs.add(0).path.read_bytes())
    kube.kubectl("create", "-n", namespace, "-f", "-", given=yaml.safe_dump(make(SOURCE_URI)))
    there = Object(kube, namespace, plural)

    with ExitStack() as stack:
        uri_of = functools.partial(uri_in, driver)
        controller = platform.Controller(there.get, there.report, uri_of, status, volume, URI)
        stack.enter_context(controller)
        app = make_app("tiny", controller.pair, graphs.find, input_name="image")
        made = driver(
            ServerInfo(stack.enter_context(serving.running(app)), "tiny", 10), store=str(volume), uri=URI, wait_s=30,
            account=str(service_account(kube, namespace, name, folder)), api=kube.address,
        )  # fmt: skip
        yield made, there, folder
        made.close()


@pytest.mark.parametrize("name", list(PLATFORMS))
def test_swaps_with_the_rights_of_the_chart(kube: Cluster, name: str, tmp_path: Path) -> None:
    graphs = serving.GraphFolder(tmp_path / "graphs")
    (tmp_path / "graphs").mkdir()
    with running(kube, name, tmp_path) as (driver, there, _):
        driver.probe()
        for number in (1, 2):
            bring_up(driver, graphs.add(number), serving.golden(number))
            assert driver.live() == number
        assert there.get()["metadata"]["annotations"][SOURCE] == SOURCE_URI
        managers = {entry["manager"] for entry in there.get()["metadata"]["managedFields"]}
        assert "tta-agent" in managers
        driver.rollback()
        assert driver.live() == 1
        driver.verify(serving.golden(1))


@pytest.mark.parametrize("name", list(PLATFORMS))
def test_a_kill_at_any_step_leaves_an_intact_version(kube: Cluster, name: str, tmp_path: Path) -> None:
    registry = registry_in(tmp_path)
    with running(kube, name, tmp_path) as (made, _, folder):
        options = {
            "store": str(folder / "volume"), "uri": URI, "wait_s": 30, "account": str(folder / "account"),
            "api": kube.address,
        }  # fmt: skip
        server = asdict(ServerInfo(made._client.url, "tiny", 60))
        (home := folder / "volume" / "tiny").mkdir(exist_ok=True)
        there = Place({"name": name, "options": options, "server": server}, home)
        kill_at_steps(there, tmp_path, registry, 6)


def test_a_name_that_the_role_does_not_hold_is_refused(kube: Cluster, tmp_path: Path) -> None:
    with running(kube, "kserve", tmp_path) as (driver, _, folder):
        other = type(driver)(
            ServerInfo("http://127.0.0.1:9", "other", 10), store=str(folder), api=kube.address,
            account=str(folder / "account"),
        )  # fmt: skip
        with pytest.raises(SwapError, match=r"answered 403: .*cannot get resource"):
            other.probe()
        other.close()


def test_an_address_of_another_certificate_is_not_believed(kube: Cluster, tmp_path: Path) -> None:
    with running(kube, "seldon", tmp_path) as (driver, _, folder):
        driver.probe()
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=another",
            "-keyout",
            "key",
        ]
        certificate = str(folder / "account" / "ca.crt")
        subprocess.run([*command, "-out", certificate], cwd=folder, check=True, capture_output=True)
        other = type(driver)(
            ServerInfo("http://127.0.0.1:9", "tiny", 10), store=str(folder), api=kube.address,
            account=str(folder / "account"),
        )  # fmt: skip
        with pytest.raises(SwapError, match="does not answer"):
            other.probe()
        other.close()
