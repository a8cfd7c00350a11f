"""What `perstep fix` found, as tables and as lines to write."""

from perstep.experiments.comparison import ArmResult, Comparison, shown_change
from perstep.experiments.fix.capture import REMOVED
from perstep.experiments.fix.measure import FIXED, Fix, FixFindings, Tried
from perstep.report import Table
from perstep.report.format import percent, plural, signed_percent


def tables(found: FixFindings) -> list[Table]:
    """One table of the drop-ins for one line."""
    if found.refused:
        return [Table(title=found.site, header=["part"], rows=[], notes=[f"Nothing was tried: {found.refused}."])]
    rows = [_row(tried, found.together, alone=len(found.tried) == 1) for tried in found.tried]
    notes = [f"{tried.part}: {tried.evidence}." for tried in found.tried]
    notes += [f"{tried.part}: or {tried.instead}." for tried in found.tried if tried.instead]
    if found.together is not None:
        arm = found.together[FIXED]
        timed = f"the first {found.timed_tokens} of its {found.all_tokens} new tokens"
        whole = "the whole call" if found.timed_tokens == found.all_tokens else timed
        notes.insert(
            0,
            f"All together: {arm.verdict}, {shown_change(arm)} {_interval(arm)} of the call's time, over {whole}, the "
            f"prefill included, in {plural(found.together.rounds, 'round')}; the whole call's tokens are the same.",
        )
    notes += [f"Not tried: {one}." for one in found.others]
    if not found.tried:
        notes.insert(0, "No drop-in does what the processors and criteria of this call did.")
    return [
        Table(
            title=f"What could replace the parts of the call at {found.site}",
            header=["part", "of the step", "at most", "drop-in", "tokens", "change", "verdict"],
            rows=rows,
            text_columns=frozenset({0, 3, 4, 6}),
            notes=notes,
        )
    ]


def _row(tried: Tried, together: Comparison | None, *, alone: bool) -> list[str]:
    arm = together[FIXED] if tried.result is None and alone and together else tried.result
    return [
        tried.part,
        "–" if tried.share is None else percent(tried.share),
        "–" if tried.most_speedup is None else f"{tried.most_speedup:.2f}×",
        tried.drop_in,
        "the same" if tried.same_tokens else "differ",
        "–" if arm is None else shown_change(arm),
        _not_measured(tried) if arm is None else arm.verdict,
    ]


def _not_measured(tried: Tried) -> str:
    """Why there is no verdict."""
    return (
        "not used" if not tried.same_tokens else "too small to measure" if tried.share is not None else "not measured"
    )


def _interval(arm: ArmResult) -> str:
    if arm.ci_low is None or arm.ci_high is None:
        return "(no interval: too few rounds)"
    return f"[{signed_percent(arm.ci_low, 1)}, {signed_percent(arm.ci_high, 1)}]"


def lines(fix: Fix) -> list[str]:
    """What to write into the call, an argument a line."""
    edit, said = fix.edit, []
    for kind in dict.fromkeys([*edit.replaced, *edit.added]):
        parts = [f"{type(part).__name__}: as it is" for part in fix.call.lists[kind]]
        for index, source in edit.replaced.get(kind, {}).items():
            parts[index] = f"{type(fix.call.lists[kind][index]).__name__}: {source}"
        said += [f"{kind}[{index}], {part}" for index, part in enumerate(parts) if not part.endswith(": as it is")]
        said += [f"{kind}, at the end: {source}" for source in edit.added.get(kind, [])]
    said += [
        f"{name}: leave it out" if value is REMOVED else f"{name}={value!r}" for name, value in edit.settings.items()
    ]
    return said
