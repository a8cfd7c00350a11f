"""Pure functions of arrays: paired changes and verdicts, summaries, designs, effects, fits.

Floor 1: no input or output, no clock; a random generator is passed in where one is needed.
"""

from perstep.stats.bootstrap import MIN_MERGED_ROUNDS, Effect
from perstep.stats.designs import balanced_block, williams_square
from perstep.stats.factorial import (
    MAX_FACTORIAL_PARTS,
    Factorial,
    OneAtATime,
    SinglePart,
    factorial_effects,
    one_at_a_time,
)
from perstep.stats.fit import (
    CostFit,
    Crossover,
    PolynomialFit,
    ScaledFit,
    find_crossover,
    fit_cost,
    fit_scaled,
    local_exponents,
)
from perstep.stats.merging import (
    Merged,
    guarded_confidence,
    merge_rounds,
    merge_until_independent,
    merged_interval,
    rank_autocorrelation,
)
from perstep.stats.order import (
    MedianInterval,
    achieved_confidence,
    median,
    median_interval,
    rounds_needed,
    sign_test_rank,
)
from perstep.stats.paired import (
    MIN_ROUNDS_FOR_VERDICT,
    Change,
    Verdict,
    invalid_change,
    log_ratios,
    minimum_detectable_effect,
    paired_change,
    paired_changes,
    withhold,
)
from perstep.stats.positions import (
    LedgerEstimate,
    ledger_estimate,
    paired_step_estimates,
    position_medians,
    round_slowdown,
    step_estimate,
)
from perstep.stats.segments import Knee, beyond_knee, find_knee
from perstep.stats.shares import ShareInterval, share_interval
from perstep.stats.slopes import Slope, half_slopes
from perstep.stats.stopping import FIRST_LOOK, Stop, next_look, should_stop
from perstep.stats.summary import (
    Outliers,
    Percentile,
    Summary,
    count_outliers,
    percentile,
    summarise,
    values_needed,
)
from perstep.stats.trend import without_trend
from perstep.stats.unpaired import (
    MIN_SPREAD_DF,
    RunCost,
    RunInterval,
    Spread,
    UnpairedChange,
    pooled_spread,
    round_levels,
    run_interval,
    unpaired_change,
)
from perstep.stats.warmup import Warmup, find_steady_state

__all__ = [
    "FIRST_LOOK",
    "MAX_FACTORIAL_PARTS",
    "MIN_MERGED_ROUNDS",
    "MIN_ROUNDS_FOR_VERDICT",
    "MIN_SPREAD_DF",
    "Change",
    "CostFit",
    "Crossover",
    "Effect",
    "Factorial",
    "Knee",
    "LedgerEstimate",
    "MedianInterval",
    "Merged",
    "OneAtATime",
    "Outliers",
    "Percentile",
    "PolynomialFit",
    "RunCost",
    "RunInterval",
    "ScaledFit",
    "ShareInterval",
    "SinglePart",
    "Slope",
    "Spread",
    "Stop",
    "Summary",
    "UnpairedChange",
    "Verdict",
    "Warmup",
    "achieved_confidence",
    "balanced_block",
    "beyond_knee",
    "count_outliers",
    "factorial_effects",
    "find_crossover",
    "find_knee",
    "find_steady_state",
    "fit_cost",
    "fit_scaled",
    "guarded_confidence",
    "half_slopes",
    "invalid_change",
    "ledger_estimate",
    "local_exponents",
    "log_ratios",
    "median",
    "median_interval",
    "merge_rounds",
    "merge_until_independent",
    "merged_interval",
    "minimum_detectable_effect",
    "next_look",
    "one_at_a_time",
    "paired_change",
    "paired_changes",
    "paired_step_estimates",
    "percentile",
    "pooled_spread",
    "position_medians",
    "rank_autocorrelation",
    "round_levels",
    "round_slowdown",
    "rounds_needed",
    "run_interval",
    "share_interval",
    "should_stop",
    "sign_test_rank",
    "step_estimate",
    "summarise",
    "unpaired_change",
    "values_needed",
    "williams_square",
    "withhold",
    "without_trend",
]
