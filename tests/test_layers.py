"""Who may import whom: the direction of `docs/architecture.md`, enforced."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PLUGINS_MAY = {"types", "evidence", "protocols", "errors", "scores", "distributions", "norms", "servable"}
STAGES = {"codecs", "sources", "swappers", "serve", "monitor", "http", "demo", "bench"}
ONLY_IN = {
    "kafka": lambda name: name.startswith("tta_agent.stream.kafka.consumer"),
    "opentelemetry": lambda name: name.startswith("tta_agent.telemetry.facade"),
    "onnxruntime": lambda name: name == "tta_agent.models.ort_sessions",
    "onnx": lambda name: (
        name in ("tta_agent.models.onnx_export", "tta_agent.models.weight_delta")
        or name.startswith("tta_agent.models.onnx_import")
    ),
    "typer": lambda name: name.endswith("cli"),
    "fsspec": lambda name: name.startswith("tta_agent.registry"),
    "sklearn": lambda name: name.startswith("tta_agent.rehearsal"),
    "sqlite3": lambda name: name in ("tta_agent.core.sqlite", "tta_agent.stream.embedded.consumer"),
    "torch_ttt": lambda name: name == "tta_agent.bench.peers",
    "timm": lambda name: name == "tta_agent.models.loader",
}


def modules():
    for folder in ("tta_agent", "adapters/tta_adapters", "policies/tta_policies"):
        base = (ROOT / folder).parent
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__"), path


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


ALL = dict(modules())


def ours(name):
    return {i for i in imports(ALL[name]) if i.startswith("tta_") and i in ALL}


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith(("tta_adapters", "tta_policies"))])
def test_plugins_see_only_the_vocabulary(name):
    family = name.split(".")[0]
    parts = {i.removeprefix("tta_agent.") for i in ours(name) if not i.startswith(family)} - {"tta_agent"}
    assert parts <= PLUGINS_MAY


@pytest.mark.parametrize("name", [n for n in ALL if n.startswith("tta_agent")])
def test_the_engine_knows_no_plugin(name):
    if name == "tta_agent.settings.presets":
        return  # finds the folder of preset files
    assert not {i for i in ours(name) if i.startswith(("tta_adapters", "tta_policies"))}


def test_the_foundation_stands_on_nothing():
    assert ours("tta_agent.core.types") == ours("tta_agent.core.errors") == set()
    assert ours("tta_agent.core.protocols") <= {
        "tta_agent.core.types",
        "tta_agent.core.evidence",
        "tta_agent",
    }


@pytest.mark.parametrize(
    "name", [n for n in ALL if n.split(".")[1:2] and n.split(".")[1] in STAGES - {"serve", "demo", "bench"}]
)
def test_stages_do_not_import_each_other(name):
    stage = name.split(".")[1]
    others = {i.split(".")[1] for i in ours(name) if "." in i} & STAGES - {stage}
    # a server answers in the wire format of the Open Inference Protocol, and so asks its swapper
    assert others <= ({"codecs"} if stage == "swappers" else set())


def test_the_loop_knows_no_settings_and_no_concrete_stage():
    for name in ("agent", "teacher", "decider", "court", "sentry", "service", "trial", "watch", "intake"):
        seen = {i.removeprefix("tta_agent.").split(".")[0] for i in ours(f"tta_agent.{name}")}
        assert not seen & {
            "settings",
            "setting_groups",
            "environment",
            "build",
            "sources",
            "codecs",
            "swappers",
            "serve",
            "cli",
        }


@pytest.mark.parametrize("package", ONLY_IN)
def test_foreign_packages_have_one_home(package):
    strangers = [
        name
        for name, path in ALL.items()
        if any(i == package or i.startswith(package + ".") for i in imports(path))
        and not ONLY_IN[package](name)
    ]
    assert not strangers


def test_only_environment_reads_our_variables():
    readers = [name for name, path in ALL.items() if "os.environ" in path.read_text()]
    allowed = {"tta_agent.settings.env", "tta_agent.core.process", "tta_agent.telemetry.export"}
    assert {n for n in readers if not n.startswith("tta_agent.demo")} <= allowed


def test_the_shelves_stay_shelves():
    assert not (ROOT / "adapters" / "__init__.py").exists()
    assert not (ROOT / "policies" / "__init__.py").exists()
