"""This machine as tables: what it is, and its ceilings."""

from collections.abc import Mapping
from operator import itemgetter

import msgspec

from perstep.machine import Ceilings, Machine
from perstep.machine.ceilings import Ceiling
from perstep.report.format import significant
from perstep.report.table import Column, Table, interval_columns

_GIB = 1 << 30


def machine_table(machine: Machine, warnings: list[str]) -> Table:
    """One row a fact, as in a run's manifest; what cannot be read is `unknown`."""
    facts = msgspec.to_builtins(machine)
    return Table(
        title="this machine, as every run's manifest describes it",
        columns=[
            Column("fact", itemgetter(0), name="fact", words=True),
            Column("value", lambda row: _readable(*row), words=True),
            Column(None, itemgetter(1), name="value"),
        ],
        records=[(name, value) for name, value in flat_facts(facts) if name != "schema_version"],
        notes=[f"warning: {warning}" for warning in warnings],
    )


def flat_facts(facts: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested facts one below the other: `cpu.model`, and what it is."""
    rows: list[tuple[str, object]] = []
    for name, value in facts.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            rows += flat_facts(value, f"{path}.") or [(path, "none")]
        elif isinstance(value, list | tuple):
            rows.append((path, " ".join(map(_item, value)) or "none"))
        else:
            rows.append((path, value))
    return rows


def _item(value: object) -> str:
    """One of a list: a word, or facts such as `api=blas library=openblas threads=1`."""
    if isinstance(value, Mapping):
        return " ".join(f"{name}={fact}" for name, fact in value.items())
    return str(value)


def _readable(name: str, value: object) -> str:
    if isinstance(value, int) and name.endswith("_bytes") and value >= _GIB:
        return f"{value:,} ({significant(value / _GIB)} GiB)"
    return str(value)


def ceilings_table(ceilings: Ceilings) -> Table:
    """One row a ceiling: the median over rounds, its lowest and highest round, and the method that reached it."""
    columns: list[Column[tuple[str, Ceiling]]] = [
        Column("ceiling", lambda row: row[0], name="ceiling", words=True),
        Column("median", lambda row: row[1].value, significant, "median"),
        Column("unit", lambda row: row[1].unit, name="unit", words=True),
        *interval_columns(
            lambda row: (row[1].low, row[1].high),
            header="lowest … highest",
            names=("lowest", "highest"),
            form=lambda ends: " … ".join(significant(end or 0.0) for end in ends),
        ),
        Column("rounds", lambda row: row[1].repeats, name="rounds"),
        Column("by", lambda row: row[1].method, name="by", words=True),
    ]
    disturbed = ceilings.disturbed()
    return Table(
        title="ceilings: the most that was reached on this machine, so lower bounds of what it can do",
        columns=columns,
        records=list(ceilings.figures.items()),
        notes=[
            *([f"DISTURBED, so no ceilings of this machine: {disturbed}."] if disturbed else []),
            *(f"left out: {name}: {why}" for name, why in ceilings.omitted.items()),
        ],
    )
