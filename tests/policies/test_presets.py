"""Every preset names plugins that take its options: a misspelt one would only show when an agent starts."""

import pytest
import yaml

from tta_agent.core import plugins
from tta_agent.settings import presets
from tta_agent.testing import batch, everyone, tiny_net


@pytest.mark.parametrize("name", presets.presets())
def test_every_plugin_of_a_preset_can_be_made(name):
    settings = presets.preset(name)
    adapt, select, schedule = (settings.get(group, {}) for group in ("adapt", "select", "schedule"))
    for method in {adapt["method"], *adapt.get("options", {})}:
        adapter = plugins.make("adapters", method, adapt.get("options", {}), tiny_net("batch"))
        x = batch()
        adapter.step(x, adapter.forward(x), everyone(x))
    for selector in select.get("selectors") or ():
        plugins.make("selectors", selector, select.get("options", {}))
    for one in schedule.get("schedules", ()):
        plugins.make("schedules", one, schedule.get("options", {}))
    assert set(select.get("options", {})) <= set(select.get("selectors") or ())


@pytest.mark.parametrize("name", presets.presets())
def test_numbers_are_numbers(name):
    """YAML reads 1e-3 as a word."""

    def leaves(value):
        return (
            [leaf for part in value.values() for leaf in leaves(part)] if isinstance(value, dict) else [value]
        )

    words = [leaf for leaf in leaves(presets.preset(name)) if isinstance(leaf, str)]
    assert not [word for word in words if word[:1].isdigit()]


@pytest.mark.parametrize("path", presets.presets().values(), ids=lambda path: path.stem)
def test_a_preset_says_in_its_first_line_whose_it_is(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert isinstance(yaml.safe_load(text), dict)
