"""The measurement: cells are made, engines built, arms chosen by the budget, everything warmed; then rounds.

In a round every arm of every cell runs twice over the cell's trace, once with marks and once without, in an order
that is then reversed; from round to round the order follows a Williams square. Each pass begins with an unrecorded
prefill and step. After its passes an engine's own work is run hot, and the curve of fills against size is measured.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import numpy as np

from perstep._json import Json
from perstep._words import plural
from perstep.automata import STATE_LIMIT, Engine, Grammar
from perstep.automata.schema.spacing import space_block
from perstep.errors import InputError, InvalidMeasurement
from perstep.experiments.conditions import hash_ids, typed
from perstep.experiments.mask.arms import BOUNDARIES, NO_MASK, OURS, Decoder, MaskedLoop, ReferenceDecoder, masker_of
from perstep.experiments.mask.building import BuildTime, EngineBuilder, parse_engines
from perstep.experiments.mask.cells import (
    Cell,
    Language,
    NoTextError,
    first_refused,
    language,
    make_cell,
    masked_loop,
    record_choices,
)
from perstep.experiments.mask.curves import (
    CURVE_ENGINES,
    Point,
    curves_of,
    describe_points,
    make_points,
    predict,
)
from perstep.experiments.mask.device import BOUNDARIES_ON_DEVICE, ArmOnDevice, DeviceDecoder, masker_there, placed
from perstep.experiments.mask.findings import resolved_by
from perstep.experiments.mask.plan import Plan
from perstep.experiments.mask.planning import SLOW_HOT_NS, Cost, choose, needed_s, try_arms
from perstep.experiments.mask.roofline import AboutCell, open_sweep
from perstep.experiments.mask.samples import AboutLanguage, ArmRound, Conditions, LeftOut, Sample, Workload
from perstep.experiments.mask.schema import complicate, read_schema
from perstep.experiments.mask.vocabularies import (
    Named,
    Vocabularies,
    describe_vocabulary,
    has_real,
    own_name,
    parse_vocab,
    widened,
)
from perstep.experiments.session import RoundSession, describe
from perstep.measure import Clock, Progress, Recorder, Resolved, Trace, measure_mark_ns
from perstep.report.format import duration
from perstep.runs import Column, Manifest
from perstep.stats import williams_square
from perstep.targets import drawn_rows, open_model
from perstep.targets.reference import Reference
from perstep.targets.reference.memory import refuse_if_too_large

PROMPT_TOKENS = 16
Measured = Any
"""A field of `ArmRound`, by its name."""

_NO_HOT: Column = np.zeros(0, np.int64)

Item = TypeVar("Item")


class MaskSession(RoundSession):
    """Prepared cells with their arms, warm; see `perstep.experiments.base.Session`.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
    """

    def __init__(self, plan: Plan, progress: Progress, clock: Clock) -> None:
        plan.check()
        super().__init__(plan.effort(), plan.seed, clock)
        self._plan = plan
        engines = parse_engines(plan.engine)
        progress(0.0, "load")
        self._placed = placed(plan.model, plan.device)
        self._target = target = open_model(plan.model, backend="numpy")
        self._tokens = plan.lengths[0]
        target.check_fits(PROMPT_TOKENS, self._tokens)
        model: Reference = target.model
        own = own_name(plan.model)
        vocabs = parse_vocab(plan.vocab or _default_vocab(own, fast=plan.fast), own)
        schema = read_schema(plan.schema)
        space_block(plan.whitespace, STATE_LIMIT)  # a bad regex is refused before anything is built
        grammar = Grammar(schema, plan.whitespace, plan.max_depth)
        progress(0.0, "schemas")
        languages = [language(complicate(schema, factor), factor, grammar) for factor in plan.complexity]
        if set(engines) <= set(OURS) and all(spoken.no_automaton for spoken in languages):
            raise InputError(f"no engine can be measured on this schema: {languages[0].no_automaton}")
        self._vocabularies = Vocabularies(model, own)
        begun_ns = clock.now()
        self._builder = EngineBuilder(clock, BuildTime(self.effort.budget_s / 2, clock))
        self._left_out: list[LeftOut] = []
        self.cells: list[Cell] = []
        self.points: list[Point] = []
        built: dict[str, dict[str, Engine]] = {}
        for name in vocabs:
            vocab = self._vocabularies.named(name)
            progress(0.0, f"engines for {plural(vocab.vocabulary.size, 'token')}")
            built |= self._make_cells(vocab, languages, model, engines)
        if not self.cells:
            raise InputError(self._why_none())
        # Of all cells: which of them there is time for may differ when a run is resumed.
        self._texts = {cell.key: cell.trace.chosen_BN for cell in self.cells}
        self._tokens_hash = hash_ids(*self._texts.values())
        progress(0.0, "plan")
        self._curves(languages, engines if any(name != own for name in vocabs) else ())
        predictions = predict(self.points, clock)
        # Building is inside the budget; the rounds have half of it in any case.
        built_s = (clock.now() - begun_ns) / 1e9
        left_s = max(self.effort.budget_s - built_s, self.effort.budget_s / 2)
        self.effort = replace(self.effort, budget_s=left_s)
        self._languages, self._schema, self._predictions = languages, schema, predictions
        self._built, self._all = built, (self.cells, self.points)
        self._choose()
        self._ceilings = None
        if self._placed is not None:
            progress(0.0, "ceilings")
            self._ceilings = self._placed.ceilings(model.config.hidden, max(plan.batch))
        progress(0.0, "warm-up")
        self._describe_warm()

    def _describe_warm(self) -> None:
        """Warm every arm, describe what is measured in the manifest, and open the ceilings that judge it."""
        for cell in self.cells:
            for arm in cell.loops:
                self._arm_round(cell, arm)
        self.manifest = describe(
            "mask",
            self._plan,
            workload=self._work(self._schema),
            model=self._target.facts,
            conditions=self._conditions(self._languages),
            boundaries=BOUNDARIES if self._placed is None else BOUNDARIES_ON_DEVICE,
        )
        self._sweep = None
        if self._placed is None:  # the ceilings are the processor's
            abouts = [self._describe(cell) for cell in self.cells]
            self._sweep = open_sweep(abouts, dtype=self._target.facts["dtype"], threads=self._plan.threads)

    def go_on_from(self, manifest: Manifest) -> None:
        """Measure the arms and curves that the stored run has, on as many tokens as there."""
        stored, new_tokens = typed(manifest, Conditions), typed(manifest, Workload).new_tokens
        cells, points = self._all
        arms = {(key, arm) for key, arms in stored.arms.items() for arm in arms}
        possible = {(cell.key, arm) for cell in cells for arm in (NO_MASK, *self._built[cell.key])}
        own = {(cell.key, arm) for cell in self.cells for arm in cell.loops}
        left_out = [entry for entry in stored.left_out if entry not in self._refused()]
        same = own == arms & possible and {point.key for point in self.points} == set(stored.curves)
        same = same and self._left_out == left_out
        if (same and new_tokens == self._tokens) or new_tokens > self._plan.lengths[0] or not arms & possible:
            return
        self._left_out = left_out
        curves = {(point.curve, point.name) for point in points if point.key not in stored.curves}
        self._keep_but(possible - arms | curves, new_tokens)
        self._describe_warm()

    def _make_cells(
        self, vocab: Named, languages: Sequence[Language], model: Reference, engines: tuple[str, ...]
    ) -> dict[str, dict[str, Engine]]:
        """The cells of a vocabulary, yet without arms; the engines of each, by its key.

        What no engine can do makes no cell.
        """
        wide = widened(model, vocab, self._plan.seed)
        built = {}
        for spoken in languages:
            pool = self._builder.engines(engines, vocab, spoken.grammar, spoken.complexity, spoken.no_automaton)
            for batch in self._plan.batch if pool else ():
                try:
                    cell = self._cell(vocab, batch, spoken, wide, list(pool.values()))
                except NoTextError as error:
                    self._left_out += [LeftOut(vocab.name, batch, spoken.complexity, name, str(error)) for name in pool]
                    continue
                usable = self._usable(pool, cell)
                if usable:
                    self.cells.append(cell)
                    built[cell.key] = usable
        return built

    def _cell(self, vocab: Named, batch: int, spoken: Language, model: Reference, guides: Sequence[Engine]) -> Cell:
        plan = self._plan
        rows = batch * vocab.vocabulary.size
        refuse_if_too_large(f"logits and masks of {batch} x {vocab.vocabulary.size:,}", 12 * rows)
        if vocab.own:
            prompt_BT = self._target.prompt(text=None, num_tokens=PROMPT_TOKENS, batch=batch, seed=plan.seed)
        else:
            prompt_BT = drawn_rows(vocab.vocabulary.size, PROMPT_TOKENS, batch, plan.seed)
        return make_cell(vocab, batch, spoken, model, prompt_BT, plan.lengths[0], plan.seed, guides)

    def _usable(self, pool: dict[str, Engine], cell: Cell) -> dict[str, Engine]:
        """The engines that can replay the cell's texts; the others are left out."""
        usable = {}
        for name, engine in pool.items():
            why = first_refused(engine, cell)
            if why:
                self._leave_out(cell, name, why)
            else:
                usable[name] = engine
        return usable

    def _leave_out(self, cell: Cell, arm: str, why: str) -> None:
        self._left_out.append(LeftOut(cell.vocab.name, cell.batch, cell.language.complexity, arm, why))

    def _why_none(self) -> str:
        """What each engine lacks, where none can be measured."""
        engines: dict[str, list[str]] = {}
        for entry in [*self._refused(), *self._left_out]:
            named = engines.setdefault(entry.why, [])
            if entry.engine not in named:
                named.append(entry.engine)
        reasons = (f"{', '.join(named)}: {why}" for why, named in engines.items())
        return f"no engine can be measured on this schema; {'; '.join(reasons)}"

    def _curves(self, languages: Sequence[Language], engines: tuple[str, ...]) -> None:
        if self._placed is not None:
            why = "fills against size are the host's: they are measured without --device"
            with_curve = [name for name in engines if name in CURVE_ENGINES]
            self._left_out += [LeftOut("its curve", None, 1, name, why) for name in with_curve]
            return
        for spoken in languages if engines else ():
            points, refused = make_points(
                engines, spoken, self._plan.seed, self._vocabularies, self._clock, self._builder.time
            )
            self.points += points
            self._left_out += [
                LeftOut("its curve", None, spoken.complexity, name, why) for name, why in refused.items()
            ]

    def _choose(self) -> None:
        """Estimate every arm, and leave out what the budget does not pay for."""
        plan = self._plan
        for cell in self.cells:
            cell.loops[NO_MASK] = self._loop(cell, [])
        tried = [one for cell in self.cells for one in try_arms(cell, self._built[cell.key], self._clock)]
        rounds, budget_s = plan.rounds_wanted(), self.effort.budget_s
        chosen = choose(tried, self._curve_costs(), self.effort, rounds, plan.lengths)
        self._too_short = chosen.too_short
        self._say_gone(chosen.gone, needed_s(chosen.costs, rounds), budget_s, rounds)
        self._keep_but({(cost.cell, cost.arm) for cost in chosen.gone}, chosen.new_tokens)

    def _keep_but(self, missing: set[tuple[str, str]], new_tokens: int) -> None:
        """Give every arm its loop but for these of a cell or a curve, and shorten the texts."""
        cells, points = self._all
        self.points = [point for point in points if (point.curve, point.name) not in missing]
        self.cells = [cell for cell in cells if (cell.key, NO_MASK) not in missing]
        for cell in self.cells:
            cell.loops = {NO_MASK: cell.loops[NO_MASK]}
            for name, engine in self._built[cell.key].items():
                if (cell.key, name) not in missing:
                    rows = [engine, *(engine.fork() for _ in range(cell.batch - 1))]
                    try:
                        cell.loops[name] = self._loop(cell, rows)
                    except InputError as error:
                        self._leave_out(cell, name, str(error))
        self.cells = [cell for cell in self.cells if len(cell.loops) > 1]
        if not self.cells:
            raise InputError(self._why_none())
        self._shorten(new_tokens)

    def _shorten(self, new_tokens: int) -> None:
        """Replay the first tokens of every text alone, and see what each arm is to choose then."""
        self._tokens = new_tokens
        for cell in self.cells:
            cell.trace = Trace(cell.trace.prompt_BT, self._texts[cell.key][:, :new_tokens])
            self._expect(cell)

    def _curve_costs(self) -> list[Cost]:
        by_curve: dict[tuple[str, str], float] = {}
        for point in self.points:
            which = (point.curve, point.name)
            by_curve[which] = by_curve.get(which, 0.0) + float(point.fill_ns(self._clock).sum())
        return [Cost(curve, name, ns, curve=True) for (curve, name), ns in by_curve.items()]

    def _say_gone(self, gone: Sequence[Cost], needed: float, budget_s: float, rounds: int) -> None:
        """List what there is no time for, with what all of it together takes."""
        cells = {cell.key: cell for cell in self.cells}
        for cost in gone:
            alone = duration(needed_s([cost], rounds) * 1e9, 2)
            why = (
                f"no time: {plural(rounds, 'round of everything takes', 'rounds of everything take')} about "
                f"{duration(needed * 1e9, 2)}, of this {alone}, and --budget is {duration(budget_s * 1e9, 2)}; give a "
                "longer --budget, or ask for less"
            )
            if cost.curve:
                complexity = next(point.complexity for point in self.points if point.curve == cost.cell)
                self._left_out.append(LeftOut("its curve", None, complexity, cost.arm, why))
            elif not cost.reference:
                self._leave_out(cells[cost.cell], cost.arm, why)

    def _loop(self, cell: Cell, engines: Sequence[Engine]) -> MaskedLoop:
        """A loop of a cell; all of them share a decoder.

        Raises:
            InputError: the masks of these engines cannot be applied where the logits are.
        """
        first, eos_ids = next(iter(cell.loops.values()), None), cell.vocab.vocabulary.eos_ids
        decoder = first.decoder if first else self._decoder(cell)
        if isinstance(decoder, DeviceDecoder):
            return MaskedLoop(decoder, masker_there(engines, eos_ids, decoder))
        return MaskedLoop(decoder, masker_of(engines, eos_ids))

    def _decoder(self, cell: Cell) -> Decoder:
        if self._placed is not None:
            return self._placed.decoder(cell.model)
        cache = cell.model.new_cache(cell.batch, PROMPT_TOKENS + self._plan.lengths[0] - 1)
        return ReferenceDecoder(cell.model, cache, cell.vocab.vocabulary.eos_ids)

    def _expect(self, cell: Cell) -> None:
        """What each arm is to choose: under a mask by its definition, or by the first engine where there is none."""
        cell.free = record_choices(cell.loops[NO_MASK], cell.trace)
        masked = masked_loop(cell) or next(loop for arm, loop in cell.loops.items() if arm != NO_MASK)
        expected = record_choices(masked, cell.trace)
        cell.trace = replace(cell.trace, expected_BN=expected)

    def measure_round(self, number: int) -> Sample:
        """One round over all cells and the curve; then every ceiling once."""
        self._probe.start()
        cells = {}
        for cell in _turned(self.cells, number):
            cells[cell.key] = self._cell_round(cell, number)
        curves = {point.key: point.fill_ns(self._clock) for point in _turned(self.points, number)}
        ceilings = {} if self._sweep is None else self._sweep.measure()
        return Sample(number, cells, curves, self._probe.stop(), ceilings)

    def _cell_round(self, cell: Cell, number: int) -> dict[str, ArmRound]:
        arms = list(cell.loops)
        square = williams_square(len(arms))
        order = [arms[index] for index in square[number % len(square)]]
        by_arm: dict[str, dict[str, Measured]] = {arm: {"differing": 0} for arm in arms}
        for half, names in enumerate((order, order[::-1])):
            for place, arm in enumerate(names):
                index = place if half == 0 else len(order) - 1 - place
                marked = (index + number + half) % 2 == 0
                self._pass(cell, arm, by_arm[arm], marked=marked)
        for arm in order:
            by_arm[arm]["hot_fill_ns"] = self._hot(cell, arm, by_arm[arm])
        return {arm: ArmRound(**by_arm[arm]) for arm in arms}

    def _arm_round(self, cell: Cell, arm: str) -> None:
        """Both kinds of pass and the hot one, unrecorded (law "every path is warm")."""
        columns: dict[str, Measured] = {"differing": 0}
        for marked in (True, False):
            self._pass(cell, arm, columns, marked=marked)
        self._hot(cell, arm, columns)

    def _pass(self, cell: Cell, arm: str, columns: dict[str, Measured], *, marked: bool) -> None:
        recorder = Recorder(self._clock)
        columns["differing"] += cell.pass_over(arm, recorder, marked=marked)
        steps = recorder.steps()
        if marked:
            columns.update(msgspec.structs.asdict(steps))
        else:
            columns["plain_ns"] = steps.step_ns

    def _hot(self, cell: Cell, arm: str, columns: dict[str, Measured]) -> Column:
        if arm == NO_MASK:
            return _NO_HOT
        if columns["parts"]["mask.fill"].sum() < SLOW_HOT_NS:
            cell.hot_pass(arm, Recorder(self._clock))
        recorder = Recorder(self._clock)
        cell.hot_pass(arm, recorder)
        return recorder.steps("hot").parts["mask.fill"]

    def resolved(self, samples: Sequence[Sample]) -> Resolved:
        """How narrow the intervals of the steps with a mask against those without are."""
        return resolved_by(samples)

    def finish(self) -> None:
        """Check that the caches are where the trace leaves them.

        Raises:
            InvalidMeasurement: one is not.
        """
        for cell in self.cells:
            loop = cell.loops[NO_MASK]
            loop.reset()
            cell.pass_over(NO_MASK, Recorder(self._clock), marked=False)
            size, expected = loop.decoder.held(), PROMPT_TOKENS + self._tokens - 1
            if size != expected:
                raise InvalidMeasurement(f"the KV cache of {cell.key} holds {plural(size, 'position')}, not {expected}")

    def _work(self, schema: dict[str, Json]) -> Workload:
        plan = self._plan
        return Workload(
            token_ids_sha256=self._tokens_hash,
            model_config_sha256=self._target.config_hash,
            schema_sha256=hashlib.sha256(json.dumps(schema).encode()).hexdigest(),
            schema=schema.get("title") or (plan.schema.name if plan.schema else "schema"),
            whitespace=plan.whitespace,
            max_depth=plan.max_depth,
            prompt_tokens=PROMPT_TOKENS,
            new_tokens=self._tokens,
            forwards=self._tokens - 1,
            dtype=self._target.facts["dtype"],
            device=plan.device,
            threads=plan.threads,
            temperature=0.0,
        )

    def _conditions(self, languages: Sequence[Language]) -> Conditions:
        return Conditions(
            cells={cell.key: self._describe(cell) for cell in self.cells},
            arms={cell.key: list(cell.loops) for cell in self.cells},
            languages=[_describe_language(spoken) for spoken in languages],
            builds=self._builder.builds,
            curves=describe_points(self.points),
            left_out=[*self._refused(), *self._left_out],
            vocabularies=[describe_vocabulary(vocab) for vocab in self._used()],
            only_own=not has_real() and self._plan.vocab is None,
            order="each arm twice in a round, the order then reversed; orders follow a Williams square; "
            "with marks and without in turn",
            discarded="one prefill and one decode step at the beginning of each pass; the prefill of each pass",
            garbage_collector="off",
            mark_ns=measure_mark_ns(self._clock),
            precision=self.effort.precision,
            rounds_wanted=self._plan.rounds_wanted(),
            predictions=[p for p in self._predictions if (p.engine, p.complexity) in curves_of(self.points)],
            too_short=self._too_short,
            on_device=self._profiled(),
            device_ceilings=self._ceilings,
        )

    def _profiled(self) -> dict[str, dict[str, ArmOnDevice]]:
        """What the device does in a step of each arm of each cell; nothing on the cpu."""
        there = self._placed
        if there is None:
            return {}
        return {
            cell.key: {arm: there.profiled(loop, cell.trace) for arm, loop in cell.loops.items()} for cell in self.cells
        }

    def _used(self) -> list[Named]:
        return list({cell.vocab.name: cell.vocab for cell in self.cells}.values())

    def _refused(self) -> list[LeftOut]:
        return [LeftOut(vocab, None, complexity, name, why) for name, vocab, complexity, why in self._builder.refusals]

    def _describe(self, cell: Cell) -> AboutCell:
        """What analysis needs of a cell: counted, not timed."""
        allowed = cell.allowed()
        lookups = cell.lookups() if "naive" in cell.loops else []
        return AboutCell(
            vocab=cell.vocab.name,
            own=cell.vocab.own,
            vocab_size=cell.vocab.vocabulary.size,
            batch=cell.batch,
            complexity=cell.language.complexity,
            states=cell.language.dfa.num_states if cell.language.dfa else None,
            hidden=cell.model.config.hidden,
            allowed_mean=float(np.mean(allowed)) if allowed else None,
            allowed_median=float(np.median(allowed)) if allowed else None,
            lookups_per_fill=float(np.mean(lookups)) if lookups else None,
            texts_end=int(np.isin(cell.trace.chosen_BN, cell.vocab.vocabulary.eos_ids).sum()),
        )


def _default_vocab(own: str, *, fast: bool) -> str:
    if not has_real():
        return own
    return f"{own},4096" if fast else f"{own},4096,32768,131072"


def _turned(items: Sequence[Item], number: int) -> list[Item]:
    """The items, beginning with another one each round."""
    start = number % len(items) if items else 0
    return [*items[start:], *items[:start]]


def _describe_language(spoken: Language) -> AboutLanguage:
    return AboutLanguage(
        complexity=spoken.complexity,
        automaton=spoken.dfa.source if spoken.dfa else "none: the texts are written along an engine's masks",
        states=spoken.dfa.num_states if spoken.dfa else None,
        fields=len(spoken.grammar.schema.get("properties", ())),
    )


prepare = MaskSession
"""A session is prepared by making it."""
