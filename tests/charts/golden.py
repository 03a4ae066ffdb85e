"""Renders of every ci/*-values.yaml of the chart; `python -m tests.charts.golden` writes them anew."""

from __future__ import annotations

from pathlib import Path

from tests.parts.kube import helm

FOLDER = Path(__file__).parent / "renders"


def path(case: str) -> Path:
    """Where the render of a case is kept."""
    return FOLDER / f"{case}.yaml"


def text(case: str, program: str = "helm") -> str:
    """The render of a case, the dashboard shortened: it is a file of the chart."""
    lines = helm.render(case=case, program=program).splitlines()
    kept, skip = [], False
    for line in lines:
        skip = skip and line.startswith("    ")
        if not skip:
            kept.append(line.rstrip())
        skip = skip or line.startswith("  tta-agent.json: |-")
    return "\n".join(kept) + "\n"


if __name__ == "__main__":
    for each in helm.CASES:
        path(each).write_text(text(each), encoding="utf-8")
