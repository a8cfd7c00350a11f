"""The figures that were published for such a pair, beside this run's.

Law "measured and expected are different columns".

They are of another model, machine and compiler, and each of their cells generated freely, so with other tokens; they
say what shape to expect, not what number.
"""

from perstep.experiments.ablation.findings import AblationFindings
from perstep.experiments.conditions import typed
from perstep.experiments.generate.samples import Workload
from perstep.report import Column, Table
from perstep.report.format import percent, signed_percent
from perstep.report.table import ABSENT
from perstep.runs import Manifest

SOURCE = "NVIDIA GB10, batch 3, 32 words, after and before torch.compile; one run a cell"
WARM_S = {"all": 3.1276, "without utf8": 2.1392, "without word": 2.2548, "none": 1.1408}
COLD_S = {"all": 20.1456, "without utf8": 17.2984, "without word": 18.4905, "none": 16.9498}


def expected_table(manifest: Manifest, findings: AblationFindings) -> Table | None:
    """Measured and published shares side by side; None where the parts are not the published pair."""
    cells = findings.effects.cells
    if set(cells) != set(WARM_S) or typed(manifest, Workload).preset != "words":
        return None
    cold = findings.cold

    def cold_share(label: str) -> float | str:
        return ABSENT if cold is None else cold[label].ns / cold["all"].ns

    columns: list[Column[str]] = [
        Column("cell", str, words=True),
        Column("measured, of all", lambda label: cells[label].ns_per_step / cells["all"].ns_per_step, percent),
        Column("expected, of all", lambda label: WARM_S[label] / WARM_S["all"], percent),
        Column("measured cold, of all", cold_share, percent, optional=True),
        Column("expected cold, of all", lambda label: cold and COLD_S[label] / COLD_S["all"], percent, optional=True),
    ]
    saved = WARM_S["all"] - WARM_S["none"]
    interaction = WARM_S["all"] - WARM_S["without utf8"] - WARM_S["without word"] + WARM_S["none"]
    sum_of_two = 2 * WARM_S["all"] - WARM_S["without utf8"] - WARM_S["without word"]
    note = (
        f"Expected: {SOURCE}. There the two savings add up to {percent(sum_of_two / WARM_S['all'])}, but both "
        f"together save {percent(saved / WARM_S['all'])}: an interaction of {interaction:+.3f} s "
        f"({signed_percent(interaction / WARM_S['all'])}) which measuring one part at a time cannot show."
    )
    return Table("measured here and published", columns, list(cells), notes=[note])
