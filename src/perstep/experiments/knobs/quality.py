"""What skipping or changing a part of the model does to its predictions: perplexity, divergence, agreement.

Teacher-forced: every configuration sees the same tokens and is asked for the next at each position, in windows of at
most 128 tokens without a cache. With a text the divergence and the perplexity are of that text; without one the tokens
are the model's own greedy output. With random weights the figures say nothing of a trained model (law "random weights
are a statement").
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perstep._files import read_given_text
from perstep.data import heldout_path
from perstep.errors import InputError
from perstep.experiments.knobs.samples import Quality
from perstep.measure import Progress
from perstep.report.format import plural
from perstep.targets import BUILT_IN, BlockMask, Target, Work

WINDOW = 128
DEFAULT_TOKENS = 512

Floats = NDArray[np.float64]
Setting = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Scored:
    """Tokens to predict.

    Attributes:
        windows: token ids, each [T].
        given: number of each window's first tokens that are not predicted; at least 1.
        is_text: whether a perplexity means something.
        source: what they are, in words.
    """

    windows: list[NDArray[np.int64]]
    given: list[int]
    is_text: bool
    source: str


def scored_tokens(target: Target, works: Sequence[Work], text: Path | None, num_tokens: int) -> Scored:
    """The tokens on which configurations are compared.

    Args:
        target: the model.
        works: its own output after each prompt, used where there is no text.
        text: a file in UTF-8; `mini` has its held-out set if None.
        num_tokens: at most, of the text.

    Raises:
        InputError: the file cannot be read, is too short, or the model has no tokenizer for it.
    """
    if text is None and target.source == BUILT_IN:
        text = heldout_path()
    if text is None:
        traces = [work.trace for work in works]
        rows = [row for trace in traces for row in np.concatenate([trace.prompt_BT, trace.chosen_BN], axis=1)]
        given = [trace.prompt_BT.shape[1] for trace in traces for _ in trace.prompt_BT]
        return Scored(rows, given, False, "the model's own greedy output")
    try:
        content = read_given_text(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"--text {text}: {reason}; give a text file in UTF-8") from error
    if target.random_weights and target.source is None:
        raise InputError(f"--text {text}: {target.name} has random weights and no tokenizer; leave --text out")
    ids = np.asarray(target.encode(content)[:num_tokens], np.int64)
    if len(ids) < 2:
        raise InputError(f"--text {text} holds {plural(len(ids), 'token')}: at least 2 are needed to predict one")
    windows = [ids[start : start + WINDOW] for start in range(0, len(ids) - 1, WINDOW)]
    windows = [window for window in windows if len(window) > 1]
    name = "its held-out set" if text == heldout_path() else text.name
    return Scored(windows, [1] * len(windows), True, name)


def measure_quality(
    target: Target, scored: Scored, settings: Mapping[str, Setting], progress: Progress
) -> dict[str, Quality]:
    """The quality of each setting against the unchanged model.

    Args:
        target: the model, unchanged.
        scored: what is predicted.
        settings: name -> puts the setting in place and back.
        progress: told how far it is.
    """
    totals = {name: np.zeros(3) for name in settings}
    num_scored = 0
    for number, (window, given) in enumerate(zip(scored.windows, scored.given, strict=True)):
        labels = window[given:]
        num_scored += len(labels)
        full = _log_probabilities(target, window, given)
        for index, (name, setting) in enumerate(settings.items()):
            progress((number + index / len(settings)) / len(scored.windows), f"quality of {name}")
            with setting():
                own = _log_probabilities(target, window, given)
            totals[name] += _losses(full, own, labels)
    return {
        name: Quality(
            perplexity=float(np.exp(nll / num_scored)) if scored.is_text else None,
            kl=_rounded(float(kl / num_scored)),
            top1_agreement=float(same / num_scored),
            scored_tokens=num_scored,
            random_weights=target.random_weights,
        )
        for name, (nll, kl, same) in totals.items()
    }


def importance(target: Target, scored: Scored, num_blocks: int, progress: Progress) -> list[float]:
    """The damage of leaving each block out by itself, [blocks]: log-perplexity gained on a text, else divergence.

    Args:
        target: the model, of at least two blocks.
        scored: what is predicted.
        num_blocks: of the model.
        progress: told how far it is.
    """
    if num_blocks == 1:
        return [0.0]
    settings: dict[str, Setting] = {"": nullcontext}
    for index in range(num_blocks):
        settings[str(index)] = _without(target, index, num_blocks)
    qualities = measure_quality(target, scored, settings, progress)
    whole = qualities[""].perplexity
    if whole is None:
        return [qualities[str(index)].kl for index in range(num_blocks)]
    return [float(np.log((qualities[str(index)].perplexity or whole) / whole)) for index in range(num_blocks)]


def _rounded(kl: float) -> float:
    """Float32 logits tell nothing below this: the unchanged model has 1e-16, of either sign."""
    return kl if kl > 1e-9 else 0.0


def _without(target: Target, index: int, num_blocks: int) -> Setting:
    return lambda: BlockMask(target.model, [i for i in range(num_blocks) if i != index])


def _losses(full: Floats, own: Floats, labels: NDArray[np.int64]) -> Floats:
    """Sums over positions: negative log-likelihood of the labels, divergence of `own` from `full`, agreements."""
    nll = -own[np.arange(len(labels)), labels].sum()
    kl = (np.exp(full) * (full - own)).sum()
    return np.array([nll, kl, float((full.argmax(1) == own.argmax(1)).sum())])


def _log_probabilities(target: Target, window: NDArray[np.int64], given: int) -> Floats:
    """The model's log-probabilities of the tokens after each of a window's positions, [T - given, V]."""
    logits_TV = target.logits(window)[given - 1 : -1]
    shifted = logits_TV - logits_TV.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
