"""The measurement of `generate`: the cells of an ablation over real calls."""

from functools import partial

import msgspec

from perstep.experiments.ablation.compiling import Compiling
from perstep.experiments.ablation.session import AblationSession, Work
from perstep.experiments.conditions import hash_ids
from perstep.experiments.generate.plan import Plan, check, find_parts, find_work, open_model
from perstep.experiments.generate.samples import Conditions, Workload
from perstep.experiments.options import FAST_AT_MOST_S
from perstep.experiments.session import describe
from perstep.measure import Clock, Progress
from perstep.targets import Target
from perstep.targets.transformers import BOUNDARIES, RANDOM_WEIGHTS
from perstep.targets.transformers.device_check import check_device


def prepare(plan: Plan, progress: Progress, clock: Clock) -> AblationSession:
    """Check the plan, load the model, record the trace, warm the cells; with a compiler measure the cold passes.

    Raises:
        InputError: something in the plan is wrong; nothing has been written.
        InvalidMeasurement: the cells do not do the same work.
    """
    effort = plan.effort()
    check(plan)
    check_device(plan.device)  # here, so that nothing is said of loading before it
    parts = find_parts(plan)
    compiling = Compiling(plan.compile_backend) if plan.compile else None
    progress(0.0, "load")
    target = open_model(plan)
    work = find_work(plan, target, parts, compiling)
    session = AblationSession(
        target.model,
        work,
        parts,
        effort=effort,
        seed=plan.seed,
        clock=clock,
        progress=progress,
        compiling=compiling,
        longer_s=FAST_AT_MOST_S if plan.fast and plan.budget is None else 0.0,
    )
    session.describe = partial(_describe, session, plan, target, work)
    session.describe()
    return session


def _describe(session: AblationSession, plan: Plan, target: Target, work: Work) -> None:
    """What was measured, and the settings of torch that decide how fast it is."""
    import torch

    of_ablation = session.conditions
    workload = Workload(
        token_ids_sha256=hash_ids(*(ids for c in work.calls for ids in (c.trace.prompt_BT, c.trace.chosen_BN))),
        model_config_sha256=target.config_hash,
        parts=list(of_ablation.parts),
        preset=plan.preset,
        batch=plan.batch,
        new_tokens=[call.new_tokens for call in session.work.calls],
        dtype=target.facts["dtype"],
        device=plan.device,
        threads=plan.threads,
        temperature=plan.temperature,
        top_k=plan.top_k,
        top_p=plan.top_p,
        compiled=of_ablation.compiled,
    )
    conditions = Conditions(
        **msgspec.structs.asdict(of_ablation),
        tf32=torch.backends.cuda.matmul.allow_tf32,
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        attn_implementation=target.facts["attn_implementation"],
        dtype=target.facts["dtype"],
    )
    if target.random_weights:
        conditions.notes = [*conditions.notes, RANDOM_WEIGHTS]
    session.manifest = describe(
        "generate",
        plan,
        workload=workload,
        model={**target.facts, "random_weights": target.random_weights},
        conditions=conditions,
        boundaries=BOUNDARIES,
    )
