"""The parts that this adapter names, and what lies inside each (law "boundaries are declared").

Between two parts nothing is lost: a part ends where the next begins. What no
row below covers is the residual. Nothing is recorded after a call's last stop
check (the building of the output) and in generate calls made inside a part.
"""

from typing import Final

SETUP: Final = "setup"
SETUP_PROCESSORS: Final = "setup.processors"
SETUP_CRITERIA: Final = "setup.criteria"
SETUP_CACHE: Final = "setup.cache"
ENCODER: Final = "encoder"
VISION: Final = "vision"
INPUTS: Final = "inputs"
FORWARD: Final = "forward"
FORWARD_OTHER: Final = "forward.other"
FORWARD_HOOKS: Final = "forward.hooks"
EMBED: Final = "embed"
NORM: Final = "norm"
ATTN: Final = "attn"
ATTN_CORE: Final = "attn.core"
ATTN_ROPE: Final = "attn.rope"
ATTN_MASK_BUILD: Final = "attn.mask.build"
KV_APPEND: Final = "kv.append"
KV_REORDER: Final = "kv.reorder"
MIXER: Final = "mixer"
MLP: Final = "mlp"
MOE: Final = "moe"
LM_HEAD: Final = "lm_head"
LOGITS: Final = "logits"
SAMPLE: Final = "sample"
STOP: Final = "stop"
REPLAY: Final = "stop/Replay"
STREAM: Final = "stream"
SYNC: Final = "sync"
DRAFT: Final = "draft"
DRAFT_FORWARD: Final = "draft.forward"
BOOKKEEPING: Final = "bookkeeping"
LOOP: Final = "loop"
SCHEDULE: Final = "schedule"
UPDATE: Final = "update"

PREFILL: Final = "prefill"
DECODE: Final = "decode"
PLAIN: Final = ".plain"
"""Ends the kind of a step of which only the duration was taken, as in `decode.plain`."""
COUNTED: Final = ".counted"
"""Ends the kind of a step in which syncs were counted, and whose duration means nothing."""

BOUNDARIES: Final[dict[str, str]] = {
    SETUP: "from the call of generate to the first preparation of inputs, apart from its other parts: configuration",
    SETUP_PROCESSORS: "building and merging the logits processors of a call",
    SETUP_CRITERIA: "building and merging the stopping criteria of a call; stop strings are prepared here",
    SETUP_CACHE: "building the cache of a call",
    ENCODER: "the encoder of an encoder-decoder model, once a call",
    VISION: "the vision tower and its projector, once a call",
    INPUTS: "prepare_inputs_for_generation; with a static cache the attention mask is built here; with continuous "
    "batching the tensors of the batch",
    FORWARD: "the model's forward as a whole (detail `phases`, or compiled)",
    FORWARD_OTHER: "what a forward does between its modules: residual additions, the loop over layers, module calls",
    FORWARD_HOOKS: "forward hooks and pre-hooks of the model itself, if it has any; those of a module inside it are in "
    "that module's part",
    EMBED: "embedding look-ups, of tokens and of learned positions",
    NORM: "normalisation layers; those inside attention belong to `attn`",
    ATTN: "an attention module apart from its `attn.*` parts and `kv.append`: projections and reshaping",
    ATTN_CORE: "the attention function: scores, softmax and weighted sum",
    ATTN_ROPE: "rotary embedding: sines and cosines, and their application",
    ATTN_MASK_BUILD: "building of the causal, sliding or chunked attention mask",
    KV_APPEND: "update of the cache with a step's keys and values",
    KV_REORDER: "reordering of the cache between beams",
    MIXER: "a layer's state-space, linear-attention or convolution module",
    MLP: "a layer's dense feed-forward module",
    MOE: "a layer's mixture of experts, its router included",
    LM_HEAD: "the projection to the vocabulary",
    LOGITS: "logits/X: one logits processor, with the reflection of its signature by the list that calls it",
    SAMPLE: "from the last processor to the first criterion: the choice of tokens, padding of finished rows and "
    "appending; with beams the choice of continuations",
    STOP: "stop/X: one stopping criterion, and the merge of its answer; in the first also the beginning of their list",
    REPLAY: "where a trace is replayed: storing the chosen token and writing the trace's in its place, in every arm; "
    "also the beginning of the list of criteria, which without a replay is in the first criterion",
    STREAM: "stream/X: the streamer's put",
    SYNC: "the wait for the answer whether all rows have stopped; with continuous batching the copy of the chosen "
    "tokens to the host",
    DRAFT: "the candidates of assisted decoding, apart from `draft.forward`",
    DRAFT_FORWARD: "the forwards of the assistant",
    BOOKKEEPING: "the loop's own work: update of arguments, float32 copy of the logits, merge of stop flags, deletion "
    "of outputs",
    LOOP: "loop/X: one source line of a loop written by hand, with all that it calls, between two calls of a model; "
    "`loop` alone where no line could be told",
    SCHEDULE: "continuous batching: requests that came and were cancelled, the choice of the batch and of its cache "
    "blocks, apart from `inputs`",
    UPDATE: "continuous batching: the requests take their tokens, stop or go on, and results are handed out",
}
"""Part -> what lies inside it. `logits`, `stop` and `stream` stand for one part per class, `loop` for one per line."""


def at_layer(part: str, layer: int) -> str:
    """The part's name at a layer, counted from 0: `attn/3`."""
    return f"{part}/{layer}"
