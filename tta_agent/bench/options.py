"""Options of `tta-agent bench methods`, as text, to a plan; all are checked before anything is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tta_agent import corruptions
from tta_agent.assembly import build
from tta_agent.bench import contenders, subjects
from tta_agent.bench.arrivals import PROTOCOLS
from tta_agent.bench.plan import BenchPlan
from tta_agent.bench.quick import CORRUPTIONS
from tta_agent.bench.streams import StreamSpec
from tta_agent.core.errors import ConfigError, nearest
from tta_agent.samples.dataset import read_domains, read_npz

FULL = {"protocols": "reset,continual", "batches": "200,64", "lags": "1,5,20", "corruptions": "all"}
QUICK = {"protocols": "reset", "batches": "100", "lags": "5", "corruptions": ",".join(CORRUPTIONS)}
ORDERS = 3  # of a full run
TIMING_S, QUICK_TIMING_S = 6.0, 3.0  # seconds of one timing, once it has enough rounds


@dataclass(frozen=True)
class BenchOptions:
    """Options as they were given; None where one was not.

    Attributes:
        protocols, batches, lags, corruptions, methods: lists with commas.
        mean, std: the same, of numbers.
    """

    quick: bool
    methods: str
    preset: str | None
    protocols: str | None
    data: str | None
    model: str | None
    weights: Path | None
    source_data: Path | None
    mean: str
    std: str
    corruptions: str | None
    severity: int
    images: int | None
    batches: str | None
    lags: str | None
    orders: int | None

    def plan(self) -> BenchPlan:
        """Plan of the run; loads the model, which is known by its weights.

        Raises:
            ConfigError: an option does not fit; names the nearest valid choice.
        """
        path = subjects.data_path(self.data)
        inputs = read_npz(path).inputs
        domains = self._given(path)
        most = max(domains.values(), default=len(inputs))
        if (self.images or 0) > most:
            raise ConfigError(
                f"--images {self.images}: {path} holds {most}{' of a domain' if domains else ''}"
            )
        model = subjects.model_flags(self.model, self.weights, self.source_data, inputs.shape[1:])
        who = contenders.parse(self.methods, self.preset)
        stream = StreamSpec(
            path.resolve(), "reset",
            tuple(domains) or names("--corruptions", self._or_default("corruptions"), corruptions.NAMES),
            self.severity, self.images or most,
            mean=numbers("--mean", self.mean), std=numbers("--std", self.std), given=bool(domains),
        )  # fmt: skip
        source = build.load_source(who[0].settings(model, "reset"))
        source.output.refuse_label_sets("a benchmark of methods")
        return BenchPlan(
            who, model, build.fingerprint(source.module), stream,
            names("--protocol", self._or_default("protocols"), tuple(PROTOCOLS)),
            counts("--batch", self._or_default("batches")), counts("--lags", self._or_default("lags")),
            self.orders or (1 if self.quick else ORDERS),
            QUICK_TIMING_S if self.quick else TIMING_S,
        )  # fmt: skip

    def _given(self, path: Path) -> dict[str, int]:
        """Domains of the file, in its order, with their numbers of images; none where corruptions are asked for."""
        found = None if self.corruptions is not None else read_domains(path)
        return {} if found is None else dict(Counter(found.tolist()))

    def _or_default(self, name: str) -> str:
        given: str | None = getattr(self, name)
        return (QUICK if self.quick else FULL)[name] if given is None else given


def names(option: str, text: str, valid: Sequence[str]) -> tuple[str, ...]:
    """Names of a list with commas, each once; `all` is every valid one.

    Raises:
        ConfigError: a name is not valid.
    """
    if text == "all":
        return tuple(valid)
    given = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in given:
        if name not in valid:
            raise ConfigError(f"{option}: no {name!r}; {nearest(name, valid)}")
    return given


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Numbers of a list with commas.

    Raises:
        ConfigError: one of them is no number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} {text}: expected a number, or several with commas between") from None


def counts(option: str, text: str) -> tuple[int, ...]:
    """Whole numbers from 1 on of a list with commas, each once.

    Raises:
        ConfigError: one of them is no such number.
    """
    given = numbers(option, text)
    if any(number < 1 or number % 1 for number in given):
        raise ConfigError(f"{option} {text}: expected whole numbers from 1 on")
    return tuple(dict.fromkeys(int(number) for number in given))
