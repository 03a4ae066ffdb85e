"""Learning on every batch against a duty cycle: what it costs for each served record, and what is served.

python benchmarks/duty.py [--records 20000] [--shares 1,0.125,0.0625] [--json OUT]

A steady stream: 1,000 clean images of the demo, then one corruption for the rest, 30 % of labels after 500 records.
Replays of the whole agent. *Cost*: forward passes of the agent for each served record, those of the copy, the source,
the serving version and the candidate together, over the second half of the stream; a backward pass counts as two.
*Late*: accuracy over the same half.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import gate_streams as streams
import torch

from tta_agent.adaptation.step import Adaptation
from tta_agent.models import ort_sessions
from tta_agent.replay.tape import Tape

CLEAN = 1000
ROUND = {"norm": 1, "tent": 3}  # forward passes of a round: a backward pass is worth two


class Passes:
    """Count of rows that go through any graph of the agent, once half of the records have been read."""

    def __init__(self, half, cost):
        self.rows, self.half, self.cost = 0.0, half, cost
        self.kept = {Tape: Tape.poll, Adaptation: Adaptation.round, ort_sessions: ort_sessions.raw_answer}

    def __enter__(self):
        poll, round_, answer = self.kept.values()
        outer = self
        answering = [False]  # the server's own passes are not the agent's

        def polled(tape, *given, **named):
            answering[0] = True
            try:
                return poll(tape, *given, **named)
            finally:
                answering[0], outer.late = False, tape.records >= outer.half

        def rounded(adaptation, x, served=None):
            outer.rows += outer.late * outer.cost * len(x)
            return round_(adaptation, x, served)

        def answered(session, x):
            outer.rows += (not answering[0] and outer.late) * len(x)
            return answer(session, x)

        self.late = False
        Tape.poll, Adaptation.round, ort_sessions.raw_answer = polled, rounded, answered
        return self

    def __exit__(self, *_):
        Tape.poll, Adaptation.round, ort_sessions.raw_answer = self.kept.values()


def play(model, method, shift, share, records, seed):
    """Cost and accuracy of one share."""
    stretches = [(None, 0, CLEAN), (*shift, records - CLEAN)]
    with tempfile.TemporaryDirectory(prefix="duty-") as scratch:
        folder = streams.recording(model, stretches, seed, Path(scratch))
        with Passes(records // 2, ROUND[method]) as passes:
            found = streams.play(folder, model, method, seed, 0.3, {"adapt": {"rest_share": share}})
    late = [window for window in found["windows"] if window["first"] >= records / 2]
    return {
        "method": method, "shift": shift[0], "share": share, "cost": passes.rows / (records - records // 2),
        "served": found["served_accuracy"], "late": sum(w["served"] for w in late) / len(late),
        "swaps": len(found["swaps"]), "rollbacks": len(found["rollbacks"]),
    }  # fmt: skip


def main():
    """Table of all."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--records", type=int, default=20_000)
    asked.add_argument("--shares", default="1,0.125,0.0625")
    asked.add_argument("--methods", default="norm,tent")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--json", type=Path)
    asked = asked.parse_args()
    torch.set_num_threads(1)
    model, rows = streams.models()["fashion"], []
    for method in asked.methods.split(","):
        for share in map(float, asked.shares.split(",")):
            rows.append(play(model, method, ("gaussian_noise", 4), share, asked.records, asked.seed))
            print(rows[-1], flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
