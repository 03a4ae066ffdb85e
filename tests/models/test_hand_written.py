"""Modules as people write and wrap them: each learns, and gives a graph that answers as it does, or says why not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tta_agent.assembly.copy import load_source, make_adaptation
from tta_agent.core.errors import ConfigError, GraphError
from tta_agent.models import loader
from tta_agent.models.onnx_export import GraphTemplate
from tta_agent.models.ort_sessions import open_session, run
from tta_agent.settings import env
from tta_agent.telemetry.facade import Telemetry

SHAPE, CLASSES = (3, 8, 8), 5


class Net(nn.Module):
    """A convolution, a normalisation, a head."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.input_shape = SHAPE
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), norm(8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Mapped(Net):
    """One tensor in a mapping, as models of transformers answer."""

    def forward(self, pixel_values: Tensor, labels: None = None) -> OrderedDict[str, Tensor | None]:
        """Logits by name."""
        return OrderedDict(loss=labels, logits=super().forward(pixel_values))


class Counted(Net):
    """The size of the batch as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(24, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        rows = self.rows(x.permute(0, 2, 1, 3).reshape(len(x), 8, -1))[0]
        return super().forward(x) + self.head(rows[:, -1])


class Last(nn.Module):
    """RMSNorm over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.own = nn.RMSNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return self.own(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Branched(Net):
    """A decision by values."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return super().forward(x if x.mean() > 0 else -x)


def lazy() -> nn.Module:
    net = Net()
    net.head = nn.LazyLinear(CLASSES)
    return net


MAKE: dict[str, Callable[[], nn.Module]] = {
    "plain": Net,
    "mapped": Mapped,
    "counted": Counted,
    "compiled": lambda: torch.compile(Net()),  # type: ignore[dict-item, return-value]
    "parallel": lambda: nn.DataParallel(Net()),
    "half": lambda: Net().half(),
    "bfloat16": lambda: Net().bfloat16(),
    "double": lambda: Net().double(),
    "instance_norm": lambda: Net(lambda n: nn.InstanceNorm2d(n, affine=True)),
    "rms_norm": lambda: Net(Last),
    "branched": Branched,
    "lazy": lazy,
    "script": lambda: torch.jit.script(Net()),
}


def __getattr__(name: str) -> Callable[[], nn.Module]:
    """The factories, by name."""
    if name not in MAKE:
        raise AttributeError(name)

    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return MAKE[name]()

    return seeded


@pytest.mark.parametrize("name", [name for name in MAKE if name not in ("branched", "lazy", "script")])
def test_it_learns_and_its_graph_answers_as_it_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"MODEL__FACTORY": f"{__name__}:{name}", "MODEL__DEVICE": "cpu", "ADAPT__METHOD": "tent"}
    for key, value in {**given, "SELECT__SELECTORS": "[]"}.items():
        monkeypatch.setenv(f"TTA_{key}", value)
    settings = env.load()
    source = load_source(settings)
    adaptation = make_adaptation(settings, source, Telemetry.off())
    random = np.random.default_rng(0)
    for _ in range(3):
        adaptation.round(random.random((16, *SHAPE), dtype=np.float32))
    assert adaptation.learnt == 3
    template, x = GraphTemplate(source.module, SHAPE), random.random((5, *SHAPE), dtype=np.float32)
    learnt = adaptation.adapter.servable()
    with torch.no_grad():
        expected, before = (model(torch.from_numpy(x)).numpy() for model in (learnt, source.module))
    assert template.patchable
    assert np.abs(run(open_session(template.compose(learnt)), x) - expected).max() < 1e-5
    assert np.abs(expected - before).max() > 1e-4


def test_a_wrapper_does_not_change_the_answers() -> None:
    x = torch.rand(4, *SHAPE)
    plain = loader.load(None, f"{__name__}:plain", None, device="cpu").module(x)
    for name, apart in {
        "mapped": 1e-6,
        "compiled": 1e-6,
        "parallel": 1e-6,
        "double": 1e-6,
        "half": 1e-2,
    }.items():
        answer = loader.load(None, f"{__name__}:{name}", None, device="cpu").module(x)
        assert torch.allclose(answer, plain, atol=apart), name


@pytest.mark.parametrize(
    ("name", "message"),
    [("script", "TorchScript module, whose layers cannot be replaced"), ("lazy", "'head.weight' first")],
)
def test_what_cannot_learn_is_refused_with_a_way_out(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as told:
        loader.load(None, f"{__name__}:{name}", None, device="cpu")
    assert "TTA_MODEL__ONNX=<file>" in str(told.value) and len(str(told.value).splitlines()) <= 3


def test_code_that_cannot_be_exported_is_told_by_its_cause() -> None:
    source = loader.load(None, f"{__name__}:branched", None, device="cpu")
    with pytest.raises(GraphError, match=r"data-dependent expression .* TTA_MODEL__ONNX=<file>"):
        GraphTemplate(source.module, SHAPE)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.net.", "module._orig_mod."])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", None])
def test_names_of_a_wrapper_or_a_trainer_are_taken_off(tmp_path: Path, prefix: str, key: str | None) -> None:
    state = {prefix + name: tensor + 1 for name, tensor in Net().state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "w.pt")
    loaded = loader.load(None, f"{__name__}:plain", tmp_path / "w.pt", device="cpu").module.state_dict()
    assert all(torch.equal(loaded[name.removeprefix(prefix)], tensor) for name, tensor in state.items())
