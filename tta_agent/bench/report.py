"""Tables of a run for the terminal and as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rich.table

from tta_agent.bench.arrivals import PROTOCOLS
from tta_agent.bench.summary import Figure, ResultTable, Row
from tta_agent.bench.work import Result

NONE = "–"


@dataclass(frozen=True, slots=True)
class Sheet:
    """Table as text."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def rich(self) -> rich.table.Table:
        """Table for the terminal."""
        table = rich.table.Table(title=self.title, title_justify="left", caption=self.note or None)
        for i, name in enumerate(self.head):
            table.add_column(name, justify="left" if not i else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Table as markdown."""
        lines = [f"### {self.title}", "", *([self.note, ""] if self.note else [])]
        lines += [_line(self.head), _line(["---", *["---:"] * (len(self.head) - 1)])]
        return "\n".join([*lines, *(_line(row) for row in self.rows), ""])


def sheets(
    tables: Sequence[ResultTable],
    lags: Sequence[int],
    timings: Mapping[tuple[str, int], Result],
    peers: Mapping[str, Mapping[str, Any]],
) -> list[Sheet]:
    """Sheets of all tables of a run."""
    found = [sheet for table in tables for sheet in _of_table(table, lags, timings)]
    return [*found, *([_of_peers(peers)] if peers else [])]


def _of_table(
    table: ResultTable, lags: Sequence[int], timings: Mapping[tuple[str, int], Result]
) -> list[Sheet]:
    protocol, batch = table.place
    title = f"{protocol}, batch {batch}: {PROTOCOLS[protocol].told}"
    note = "; ".join(f"{name} refuses: {_short(why)}" for name, why in table.refused.items())
    found = [
        _accuracies(table, lags, timings, title, note),
        _against_online(table, lags, f"{protocol}, batch {batch}: served minus online, points, on the same records"),
    ]  # fmt: skip
    if max((len(rows) for rows in table.domains.values()), default=0) > 1:
        lag = nearest_lag(lags)
        found.append(
            _by_domain(table, lag, f"{protocol}, batch {batch}: online / served at lag {lag}, by corruption")
        )
    return found


def nearest_lag(lags: Sequence[int]) -> int:
    """Lag that single figures are given for: 5, or the nearest to it."""
    return min(lags, key=lambda lag: abs(lag - 5))


def _accuracies(
    table: ResultTable, lags: Sequence[int], timings: Mapping[tuple[str, int], Result], title: str, note: str
) -> Sheet:
    head = ["method", "source", "online", *(f"served @{lag}" for lag in lags), "F", "B", "time"]
    names = ["source", "online", *(f"served@{lag}" for lag in lags)]
    rows = []
    for method, row in table.rows.items():
        passes = [_plain(row.get(name)) for name in ("forwards", "backwards")]
        time = _times(timings.get((method, table.place[1])))
        rows.append([method, *(_percent(row.get(name)) for name in names), *passes, time])
    return Sheet(title, head, rows, note)


def _against_online(table: ResultTable, lags: Sequence[int], title: str) -> Sheet:
    changes = any(f"change_cost@{lag}" in row for row in table.rows.values() for lag in lags)
    end = f"served_tail@{nearest_lag(lags)}"
    head = ["method"]
    for lag in lags:
        head += [f"all @{lag}", f"2nd half @{lag}", *([f"change @{lag}"] if changes else [])]
    head += ["end, online", f"end @{nearest_lag(lags)}"]
    rows = []
    for method, row in table.rows.items():
        cells = [method]
        for lag in lags:
            cells += [_points(row, f"served@{lag}", f"online_same@{lag}"),
                      _points(row, f"served_second_half@{lag}", f"online_second_half@{lag}")]  # fmt: skip
            cells += [_whole(row.get(f"change_cost@{lag}"))] if changes else []
        rows.append([*cells, _points(row, "online_tail", "source_tail"), _points(row, end, "source_tail")])
    note = "end: online, and served, minus the source in the last tenth"
    change = "; change: records after a change of corruption until served is within 1 point of online"
    return Sheet(title, head, rows, note + (change if changes else ""))


def _by_domain(table: ResultTable, lag: int, title: str) -> Sheet:
    names = list(dict.fromkeys(name for rows in table.domains.values() for name in rows))
    rows = []
    for name in names:
        here = [by_name.get(name, {}) for by_name in table.domains.values()]
        pairs = [
            [_percent(row.get(f"{who}@{lag}"), deviation=False) for who in ("online_same", "served")]
            for row in here
        ]
        source = _percent(_any_source(table, name), deviation=False)
        rows.append([name.replace("_", " "), source, *(" / ".join(pair) for pair in pairs)])
    return Sheet(
        title,
        ["", "source", *table.domains],
        rows,
        "on the same records; without those before the first snapshot",
    )


def _any_source(table: ResultTable, domain: str) -> Figure | None:
    return next((rows[domain]["source"] for rows in table.domains.values() if domain in rows), None)


def _of_peers(peers: Mapping[str, Mapping[str, Any]]) -> Sheet:
    head = ["torch-ttt", "images", "online", "ours", "F", "B", "time", "ours / theirs, time"]
    rows = []
    for name, peer in peers.items():
        online = [
            f"{100 * peer[key]:.1f}" if peer[key] is not None else NONE for key in ("online", "ours_online")
        ]
        keys = ("forwards", "backwards", "step_over_forward", "ours_over_theirs")
        rows.append(
            [
                name,
                str(peer["images"]),
                *online,
                *(NONE if peer[k] is None else f"{peer[k]:.2f}" for k in keys),
            ]
        )
    return Sheet("Beside the peer", head, rows, "same model, batches and process; time in plain forwards")


def _percent(figure: Figure | None, *, deviation: bool = True) -> str:
    if figure is None:
        return NONE
    return f"{100 * figure.mean:.1f}" + (f" ± {100 * figure.sd:.1f}" if deviation and figure.sd else "")


def _points(row: Row, one: str, other: str) -> str:
    return f"{100 * (row[one].mean - row[other].mean):+.1f}" if one in row and other in row else NONE


def _plain(figure: Figure | None) -> str:
    return NONE if figure is None else f"{figure.mean:.2f}"


def _whole(figure: Figure | None) -> str:
    return NONE if figure is None else f"{figure.mean:.0f}"


def _times(found: Result | None) -> str:
    return NONE if found is None else f"{found['step_over_forward']:.2f}×"


def _short(text: str) -> str:
    return text.split(";")[0].split(", and")[0]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
