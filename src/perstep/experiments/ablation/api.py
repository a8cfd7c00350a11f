"""`perstep.ablate`: the time saved by taking a logits processor or a stopping criterion away."""

from collections.abc import Mapping
from math import inf

import msgspec

from perstep._json import Json
from perstep._shown import html
from perstep._words import plural
from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments.ablation.factories import Component, Factory, components
from perstep.experiments.ablation.findings import AblationFindings, analyse
from perstep.experiments.ablation.samples import Sample
from perstep.experiments.ablation.session import AblationSession, Call, Work
from perstep.experiments.ablation.show import tables
from perstep.experiments.conditions import Model
from perstep.experiments.session import measure_rounds
from perstep.measure import Clock, Effort, HostClock, Progress, collector_off
from perstep.report import to_text
from perstep.report.notebook import meter
from perstep.runs import Manifest
from perstep.stats import Effect
from perstep.targets.target import Argument, EitherModel
from perstep.targets.transformers import as_arguments, find_model, record, require


class Ablation:
    """The result of `ablate`; `str()` gives the tables. Times are nanoseconds per step.

    Attributes:
        findings: everything, as in a run's `results.json`.
    """

    def __init__(self, manifest: Manifest, findings: AblationFindings) -> None:
        self.findings = findings
        self._manifest = manifest

    @property
    def effect(self) -> dict[str, Effect]:
        """By part: the mean change when it is added, over all combinations of the others (up to four parts)."""
        return {name: part.effect for name, part in self.findings.effects.parts.items() if part.effect is not None}

    @property
    def interaction(self) -> dict[tuple[str, ...], Effect]:
        """By tuple of parts, in their order: their cost together minus the sum of their single costs."""
        return {tuple(names.split("*")): effect for names, effect in self.findings.effects.interaction.items()}

    @property
    def shapley(self) -> dict[str, Effect | None]:
        """By part: its share of the total; the shares add up to it. With more than four parts some may be None."""
        return {name: part.shapley for name, part in self.findings.effects.parts.items()}

    @property
    def in_place(self) -> dict[str, Effect]:
        """By part: the time spent in it, with all parts present."""
        return {name: part.in_place for name, part in self.findings.parts.items()}

    @property
    def total(self) -> Effect:
        """All parts together."""
        return self.findings.effects.total

    def __repr__(self) -> str:
        effects = self.findings.effects
        return f"<Ablation of {', '.join(effects.parts)}: {plural(effects.rounds, 'round')}>"

    def _repr_html_(self) -> str | None:
        return html(tables(self._manifest, self.findings))

    def __str__(self) -> str:
        return "\n".join(to_text(table) for table in tables(self._manifest, self.findings))


def ablate(
    model: EitherModel,
    inputs: Argument,
    *,
    max_new_tokens: int,
    logits_processor: Mapping[str, Factory] | None = None,
    stopping_criteria: Mapping[str, Factory] | None = None,
    budget_s: float = 30.0,
    precision: float = 0.005,
    rounds: int | None = None,
    seed: int = 0,
    clock: Clock | None = None,
    progress: Progress | None = None,
    **generate_kwargs: Argument,
) -> Ablation:
    """Measure the time saved by removing logits processors and stopping criteria from a generate call.

    The tokens are recorded once, with all parts, and every combination replays them, so all do the same work. With up
    to four parts all 2^k combinations are measured; with more, each part is left out and added alone.

    Args:
        model: a transformers model that generates, or a pipeline.
        inputs: token ids [B, T], or a mapping with what generate takes (`input_ids`, `inputs_embeds` ...).
        max_new_tokens: N: one prefill and N - 1 decode forwards in every combination.
        logits_processor: name -> a function without arguments that makes a new processor.
        stopping_criteria: name -> a function that makes a new criterion; criteria are evaluated, but do not end the
            call.
        budget_s: seconds after which no new round begins.
        precision: stop earlier when the widest interval's half-width is this share of the step.
        rounds: measure exactly this number of rounds; budget and precision are ignored.
        seed: of draws and of the order of turns.
        clock: the host's, unless a test passes its own.
        progress: called after each round; in a notebook a line on stderr if None.
        generate_kwargs: passed to generate in every combination.

    Returns:
        Effects, interactions, shares and the parts timed in place.

    Raises:
        InputError: a factory that does not make a new part each time, a call that cannot be replayed, or an option
            out of its range.
        InvalidMeasurement: the combinations do not execute the same number of forwards, or a part keeps state
            between calls.
    """
    require()
    target = find_model(model)
    parts = _parts(logits_processor, stopping_criteria, generate_kwargs)
    effort = Effort(precision=precision, budget_s=budget_s) if rounds is None else Effort(None, inf, rounds)
    clock, progress = clock or HostClock(), meter(progress)
    instances = {
        "logits_processor": [part.make() for part in parts if part.kind == "processor"],
        "stopping_criteria": [part.make() for part in parts if part.kind == "criterion"],
    }
    trace = record(target, inputs, max_new_tokens, seed=seed, **instances, **generate_kwargs)
    work = Work([Call(as_arguments(inputs), trace)], generate_kwargs, recorded=True)
    with collector_off():
        session = AblationSession(target, work, parts, effort=effort, seed=seed, clock=clock, progress=progress)
    session.manifest.model = msgspec.to_builtins(Model(name=type(target).__name__))
    return _measured(session, clock, progress)


def _parts(
    processors: Mapping[str, Factory] | None, criteria: Mapping[str, Factory] | None, arguments: Mapping[str, Json]
) -> tuple[Component, ...]:
    """The parts to take away, once it is known that generate's arguments name none of them."""
    for name in ("max_length", "logits_processor", "stopping_criteria"):
        if name in arguments:
            raise InputError(f"{name} is not an argument of generate here; see the arguments of ablate")
    return components(processors or {}, criteria or {})


def _measured(session: AblationSession, clock: Clock, progress: Progress) -> Ablation:
    """Rounds until the session's effort is spent."""
    samples: list[Sample] = []
    measure_rounds(session, samples, clock=clock, progress=progress)
    findings = analyse(session.manifest, samples)
    if findings.invalid:
        raise InvalidMeasurement(findings.invalid)
    return Ablation(session.manifest, findings)
