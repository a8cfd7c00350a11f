"""A prediction: a step that was not measured, with an interval, or marked as derived; or refused with the reason.

`predicted`: every measure of the step lies within what was measured in the same way, and so does the machine.
`derived`: one lies outside by a factor of 1.5 to 4, or the machine has few cells; there is no interval, because none
was tested there. Farther away it is refused. The nearest measured cell is named each time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

import msgspec

from perstep._words import plural, short
from perstep.errors import InputError
from perstep.predicting.cells import Cell, Cells, Speed, machine_speed
from perstep.predicting.features import experts_run, roofline_step_ns
from perstep.predicting.fit import Fit, fit_cells, half_widths, interval_ns, sides_ns
from perstep.predicting.subject import Subject

SLACK, FAR = 1.5, 4.0
"""A step that exceeds what was measured by up to the first factor counts as measured there; by up to the second it is
derived."""
LEAST_ON_MACHINE = 3
"""Architectures that a machine must have measured for an interval there."""
PREDICTED, DERIVED = "predicted", "derived"


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What a decode step would take.

    Attributes:
        name: of the step.
        status: `predicted` or `derived`.
        why_derived: in words; empty if it is predicted.
        step_ns: without marks.
        low_ns: lower end of the interval, which is to hold 90 % of the cells of a new architecture; None if derived.
        high_ns: upper end.
        parts_ns: part -> time; without a device they add up to the step.
        host_ns: the sum of the host's parts.
        device_ns: the sum of the device's; 0 without one.
        roofline_ns: the bound of the step by theory at the same ceilings, with nothing fitted.
        weight_bytes: of the model.
        cache_bytes: of all sequences.
        nearest: the nearest measured cell.
        nearest_ns: what it took.
        cells: how many the fit has seen.
        architectures: how many different ones.
        way: how steps are carried out, in words.
        hardware: the machine.
    """

    name: str
    status: str
    why_derived: str
    step_ns: float
    low_ns: float | None
    high_ns: float | None
    parts_ns: dict[str, float]
    host_ns: float
    device_ns: float
    roofline_ns: float
    weight_bytes: int
    cache_bytes: int
    nearest: str
    nearest_ns: float
    cells: int
    architectures: int
    way: str
    hardware: str


def measures(subject: Subject) -> dict[str, float]:
    """What decides whether a step resembles those that were measured."""
    shape = subject.shape
    return {
        "context": subject.context + 1,
        "batch": subject.batch,
        "layers": shape.num_layers,
        "experts that a layer runs": max(experts_run(subject) / shape.num_layers, 1.0),
        "vocabulary": shape.vocab,
        "bytes of weights and cache": subject.weight_bytes + subject.cache_bytes,
    }


def beyond(subject: Subject, cells: Sequence[Cell]) -> dict[str, float]:
    """Measure -> by which factor a step lies outside of what was measured; those that lie inside are left out."""
    measured = [measures(cell.subject) for cell in cells]
    factors = {}
    for name, value in measures(subject).items():
        factor = max(min(one[name] for one in measured) / value, value / max(one[name] for one in measured))
        if factor > SLACK:
            factors[name] = factor
    return factors


def nearest(subject: Subject, cells: Sequence[Cell]) -> Cell:
    """The cell whose measures are nearest by ratio."""
    wanted = measures(subject)

    def distance(cell: Cell) -> float:
        return sum(log(value / wanted[name]) ** 2 for name, value in measures(cell.subject).items())

    return min(cells, key=distance)


@dataclass(frozen=True)
class Predictor:
    """A fit for one way of carrying out steps, on one machine.

    Attributes:
        cells: of that way, on all machines.
        fit: their coefficients.
        half: of the interval, as a logarithm; None if there is none.
        speed: of the machine.
        machine: its identity.
    """

    cells: Sequence[Cell]
    fit: Fit
    half: float | None
    speed: Speed
    machine: str

    @property
    def memory_bytes(self) -> float | None:
        """Of the machine, or of its device where steps run on one; None if it is not known."""
        return next(cell.memory_bytes for cell in self.cells if cell.machine == self.machine)

    def predict(self, subject: Subject) -> Prediction:
        """A step.

        Raises:
            InputError: it is too far from what was measured, with the nearest cell and by how much.
        """
        near = nearest(subject, self.cells)
        outside = self._outside(subject, near)
        why = [*outside, *self._few_here()]
        if self.half is None:
            why.append("there are too few architectures to know how far a new one may be off")
        parts = self.fit.parts_ns(subject, self.speed)
        step_ns = self.fit.together_ns(parts)
        ends = None if why else interval_ns(step_ns, self.half)
        return Prediction(
            name=subject.name,
            status=DERIVED if why else PREDICTED,
            why_derived="; ".join(why),
            step_ns=step_ns,
            low_ns=ends and ends[0],
            high_ns=ends and ends[1],
            parts_ns=parts,
            host_ns=sides_ns(parts)[0],
            device_ns=sides_ns(parts)[1],
            roofline_ns=roofline_step_ns(subject, self.speed),
            weight_bytes=subject.weight_bytes,
            cache_bytes=subject.cache_bytes,
            nearest=f"{near.name} ({near.subject.name})",
            nearest_ns=near.step_ns,
            cells=len(self.cells),
            architectures=len({cell.subject.arch for cell in self.cells}),
            way=subject.way.words,
            hardware=next(cell.hardware for cell in self.cells if cell.machine == self.machine),
        )

    def _outside(self, subject: Subject, near: Cell) -> list[str]:
        """Which measures lie outside of what was measured, in words."""
        outside, measured = [], [measures(cell.subject) for cell in self.cells]
        for name, factor in beyond(subject, self.cells).items():
            value, seen = measures(subject)[name], [one[name] for one in measured]
            there = f"{min(seen):,.0f} to {max(seen):,.0f}"
            if factor > FAR:
                raise InputError(
                    f"{subject.name} is not predicted: its {name} ({value:,.0f}) lies beyond what was measured"
                    f" ({there}) by a factor of {short(factor, 3)}; the nearest cell is {near.name}"
                    f" ({near.subject.name}). Measure cells nearer to it"
                )
            outside.append(f"its {name} ({value:,.0f}) lies outside {there}")
        return outside

    def _few_here(self) -> list[str]:
        here = {cell.subject.arch for cell in self.cells if cell.machine == self.machine}
        if len(here) >= LEAST_ON_MACHINE:
            return []
        return [f"{plural(len(here), 'architecture')} measured on this machine, {LEAST_ON_MACHINE} are needed"]


def predictor(cells: Cells, subject: Subject, machine: str | None) -> Predictor:
    """What predicts steps of a subject's kind.

    Args:
        cells: what was measured.
        subject: whose way is taken.
        machine: the identity of a machine; None for the one that measured the cells.

    Raises:
        InputError: nothing was measured in this way, or on this machine, or too little.
    """
    alike = cells.of_way(subject.way)
    if not alike:
        ways = sorted({cell.subject.way.words for cell in cells.cells})
        there = f"there are cells of {'; '.join(ways)}" if ways else f"there are none ({cells.words or 'no runs'})"
        raise InputError(f"no cell was measured as {subject.way.words}; {there}")
    machines = list(dict.fromkeys(cell.machine for cell in alike))
    chosen = machine if machine is not None else machines[0]
    if machine is None and len(machines) > 1:
        raise InputError(f"the cells are of {plural(len(machines), 'machine')}; name one by --machine FILE")
    if chosen not in machines:
        raise InputError(
            "no cell was measured on that machine, so its ceilings in this way are not known; measure one there:"
            " `perstep ledger` with any model, and copy its run to the others"
        )
    speeds = own_speeds(alike)
    here = [cell for cell in alike if cell.machine == chosen]
    return Predictor(alike, fit_cells(alike, speeds), half_widths(alike, speeds).pooled, machine_speed(here), chosen)


def own_speeds(cells: Sequence[Cell]) -> Mapping[str, Speed]:
    """Cell's name -> the ceilings of its own rounds."""
    return {cell.name: cell.speed for cell in cells}
