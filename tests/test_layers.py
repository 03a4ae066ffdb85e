"""Who may import whom: import-linter's contracts hold, can fail, and each foreign package has one home."""

import ast
import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import structure

ROOT = Path(__file__).parent.parent
ALL = structure.modules()
VOCABULARY = (
    "tta_agent.core.",
    "tta_agent.scoring.",
    "tta_agent.models.batchnorm",
    "tta_agent.models.freeze",
)
HOMES = {
    "kafka": ("tta_agent.stream.kafka",),
    "confluent_kafka": ("tta_agent.stream.kafka.confluent",),
    "opentelemetry": ("tta_agent.telemetry",),
    "onnxruntime": (
        "tta_agent.models.ort_sessions",
        "tta_agent.models.ort_options",
        "tta_agent.models.patched_graph",
        "tta_agent.models.packed",
    ),
    "onnx": (
        "tta_agent.models.onnx_export",
        "tta_agent.models.onnx_import",
        "tta_agent.models.tracer",
        "tta_agent.models.external_data",
        "tta_agent.models.message_size",
        "tta_agent.models.packed",
        "tta_agent.models.skeleton",
        "tta_agent.models.weight_delta",
        "tta_agent.models.inspection",
        "tta_agent.models.obstacles",
    ),
    "typer": ("tta_agent.cli",),
    "fsspec": (
        "tta_agent.registry",
        "tta_agent.serving.clients.uri_store",
        "tta_agent.stream.codecs.claim_check",
    ),
    "sklearn": ("tta_agent.evaluation.rehearsed",),
    "matplotlib": ("tta_agent.demo.picture",),
    "sqlite3": ("tta_agent.core.sqlite", "tta_agent.stream.embedded.consumer", "tta_agent.cli.failures"),
    "torch_ttt": ("tta_agent.bench.peers",),
    "timm": ("tta_agent.models.loader",),
    "jinja2": ("tta_agent.reports",),
}


@functools.cache
def imports(path):
    return frozenset(_imports(path))


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(name):
    return {i for i in imports(ALL[name]) if i.startswith("tta_") and i in ALL}


def lint(folder):
    """What import-linter says of a checkout."""
    program = Path(sys.executable).with_name("lint-imports")
    path = f"{folder}:{folder}/adapters:{folder}/policies"
    return subprocess.run(
        [program, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path):
    """A copy of the code, to break something in."""
    for name in ("tta_agent", "adapters", "policies"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.npz", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold_without_an_exemption():
    done = lint(ROOT)
    assert done.returncode == 0 and "0 broken" in done.stdout and "ignored" not in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("tta_agent/core/errors.py", "def late():\n    import tta_agent.models.loader\n", "Imports go down"),
        ("tta_agent/stream/batcher.py", "import tta_agent.registry.reader\n", "Imports go down"),
        ("adapters/tta_adapters/norm.py", "import tta_agent.stream.batcher\n", "Plugins see"),
        ("tta_agent/rollout/limits.py", "import tta_policies.gates.rank\n", "The engine knows no plugin"),
        (
            "tta_agent/pipeline/cadence.py",
            "import tta_agent.stream.codecs.oip\n",
            "The loop knows no settings",
        ),
    ],
)
def test_what_points_up_is_found_lazy_or_not(checkout, file, line, contract):
    (checkout / file).write_text((checkout / file).read_text() + "\n\n" + line)
    done = lint(checkout)
    assert done.returncode == 1
    broken = [told for told in done.stdout.splitlines() if told.endswith("BROKEN")]
    assert any(told.startswith(contract) for told in broken), done.stdout


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith(("tta_adapters", "tta_policies"))])
def test_plugins_see_only_the_vocabulary(name):
    family = name.split(".")[0]
    packages = {"tta_agent", "tta_agent.core", "tta_agent.scoring", "tta_agent.models"}
    others = {i for i in ours(name) if not i.startswith(family)} - packages
    assert all(i.startswith(VOCABULARY) for i in others), others


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith("tta_agent")])
def test_the_engine_knows_no_plugin(name):
    assert not {i for i in ours(name) if i.startswith(("tta_adapters", "tta_policies"))}


def test_the_foundation_stands_on_nothing():
    assert ours("tta_agent.core.types") == ours("tta_agent.core.errors") == set()
    seen = ours("tta_agent.core.protocols") - {"tta_agent", "tta_agent.core"}
    assert seen <= {"tta_agent.core.types", "tta_agent.core.evidence"}


@pytest.mark.parametrize("package", HOMES)
def test_foreign_packages_have_one_home(package):
    strangers = [
        name
        for name, path in ALL.items()
        if any(i == package or i.startswith(package + ".") for i in imports(path))
        and not any(name == home or name.startswith(home + ".") for home in HOMES[package])
    ]
    assert not strangers


def test_only_environment_reads_our_variables():
    readers = [name for name, path in ALL.items() if "os.environ" in path.read_text()]
    allowed = {"tta_agent.settings.env", "tta_agent.core.process", "tta_agent.telemetry.export"}
    assert {n for n in readers if not n.startswith(("tta_agent.demo", "tta_agent.cli.demo"))} <= allowed


def test_plugin_folders_are_no_packages():
    assert not (ROOT / "adapters" / "__init__.py").exists()
    assert not (ROOT / "policies" / "__init__.py").exists()
