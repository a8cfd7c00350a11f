"""The drop-ins' kernels in Triton, for a GPU: one launch where operations of torch need a dozen. No launches here.

What a kernel gives is what the operations of torch beside it give (`_launch`). Weights of top-p are added up as whole
numbers, so that a sum does not depend on the order in which the blocks of a row arrive.
"""

import triton
import triton.language as tl

# Each program has a row (axis 0) and a block of its columns (axis 1).

BLOCK = tl.constexpr(2048)
BLOCK_T = tl.constexpr(1024)
"""Tokens of a text that are read at once."""
BITS = tl.constexpr(11)
BINS = tl.constexpr(2048)
"""Of one digit; three digits of 11 bits order all float32 values."""
UNIT = tl.constexpr(2.0**42)
"""The weight of the largest logit of a row. What is smaller by 2**42 or more counts nothing: 3e-8 of a row at most."""


@triton.jit
def _key(x):
    """A uint32 in the order of the float32 values; both zeros have the same."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.uint32, bitcast=True) ^ 0x80000000


@triton.jit
def _value(key):
    """The float32 value of a key."""
    bits = (key ^ 0x80000000).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _weight(x, top):
    """exp(x - top) in units."""
    return (tl.exp(x - top) * UNIT).to(tl.int64)


@triton.jit
def _boundary(bins, share, LEVELS: tl.constexpr):
    """The first digits of the last key that is kept, and the weight that is wanted of those that begin with them.

    It is the largest for which the keys from it on have `share` (of 2**62) of all the weight.
    """
    numbers = tl.arange(0, BINS)
    total = tl.sum(tl.load(bins + numbers))
    wanted = tl.ceil(total.to(tl.float64) * (share.to(tl.float64) * 2.0**-62)).to(tl.int64)
    digits = tl.zeros((), tl.uint32)
    for level in tl.static_range(LEVELS):
        weights = tl.load(bins + level * BINS + numbers)
        from_here = tl.sum(weights) - tl.cumsum(weights) + weights
        digit = tl.max(tl.where(from_here >= wanted, numbers, 0))
        wanted -= tl.sum(tl.where(numbers > digit, weights, 0))
        digits = (digits << BITS) | digit.to(tl.uint32)
    return digits, wanted


@triton.jit(do_not_specialize=["share"])
def add_weights(scores, tops, bins, share, columns, LEVEL: tl.constexpr):
    """Add the weights of a row to the bins of their digit, of those keys that begin as the boundary does.

    scores [rows, columns], tops [rows] their maxima, bins int64 [rows, 3, BINS], 0 before the first digit.
    """
    row = tl.program_id(0).to(tl.int64)
    top = tl.load(tops + row).to(tl.float32)
    bins += row * 3 * BINS
    if top - top == 0:  # neither NaN nor an infinity
        places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = places < columns
        x = tl.load(scores + row * columns + places, inside).to(tl.float32)
        x = tl.where(inside, x, top)  # a weight that fits into 64 bits, whatever lies there
        key, weight = _key(x), _weight(x, top)
        counts = inside & (weight > 0)
        shift: tl.constexpr = 2 * BITS - LEVEL * BITS
        if LEVEL > 0:
            digits, _wanted = _boundary(bins, share, LEVEL)
            counts = counts & ((key >> (shift + BITS)) == digits)
        digit = ((key >> shift) & (BINS - 1)).to(tl.int32)
        lowest, highest = tl.min(tl.where(counts, digit, BINS)), tl.max(tl.where(counts, digit, -1))
        if lowest == highest:  # a flat row, or a last digit that half precision does not have: no crowd at one address
            tl.atomic_add(bins + LEVEL * BINS + lowest, tl.sum(tl.where(counts, weight, 0)), sem="relaxed")
        else:
            tl.atomic_add(bins + LEVEL * BINS + digit, weight, counts, sem="relaxed")


@triton.jit(do_not_specialize=["share"])
def keep_nucleus(scores, tops, bins, kept, share, filter_value, columns):
    """Write the scores with `filter_value` outside the nucleus: keys above the boundary, and the last of those at it.

    As in `add_weights`; bins are full. kept [rows, columns].
    """
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    top = tl.load(tops + row).to(tl.float32)
    places = block * BLOCK + tl.arange(0, BLOCK)
    inside = places < columns
    scores += row * columns
    x = tl.load(scores + places, inside).to(tl.float32)
    keep = inside
    if top - top == 0:
        boundary, wanted = _boundary(bins + row * 3 * BINS, share, 3)
        each = tl.maximum(_weight(_value(boundary), top), 1)
        most = (wanted + each - 1) // each
        key = _key(x)
        tied = ((key == boundary) & inside).to(tl.int32)
        later = tl.zeros((), tl.int32)
        if tl.sum(tied) > 0:
            for start in range((block + 1) * BLOCK, columns, BLOCK):
                others = start + tl.arange(0, BLOCK)
                other_keys = _key(tl.load(scores + others, others < columns).to(tl.float32))
                later += tl.sum(((other_keys == boundary) & (others < columns)).to(tl.int32))
        later += tl.sum(tied)
        rank = later - tl.cumsum(tied)  # how many of the tied ones have a higher id
        keep = (key > boundary) | ((tied > 0) & (rank < most))
    tl.store(kept + row * columns + places, tl.where(keep, x, filter_value), inside)


@triton.jit(do_not_specialize=["length", "ids_stride"])
def penalise(
    ids, ignored, inverse, scores, changed, penalty, length, ids_stride, ignored_stride, columns, DIVIDES: tl.constexpr
):
    """Write the scores with the penalty for tokens that occur in the text, each once.

    ids int64 [rows, length], ignored int64 [rows or 1], inverse float32 [1] of the penalty, scores and changed
    [rows, columns]. On a GPU torch divides by a number by multiplying with its inverse.
    """
    row, begin = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK
    scores += row * columns
    changed += row * columns
    places = begin + tl.arange(0, BLOCK)
    tl.store(changed + places, tl.load(scores + places, places < columns), places < columns)
    tl.debug_barrier()  # what follows is written over it, by other threads
    first = tl.load(ignored + row * ignored_stride)
    end = tl.minimum(begin + BLOCK, columns)
    for start in range(0, length, BLOCK_T):
        positions = start + tl.arange(0, BLOCK_T)
        token = tl.load(ids + row * ids_stride + positions, positions < length, -1)
        mine = (positions >= first) & (token >= begin) & (token < end)
        x = tl.load(scores + token, mine).to(tl.float32)
        less = x / penalty if DIVIDES else x * tl.load(inverse)
        tl.store(changed + token, tl.where(x < 0, x * penalty, less), mine)


@triton.jit(do_not_specialize=["length", "ids_stride"])
def advance_and_mask(
    ids, powers, hashes, states, starts, tables, next_states, class_of, row_of, rows, scores, after, masked,
    length, ids_stride, batch, num_classes, num_tokens, columns, words,
    FOLLOWED: tl.constexpr, PACKED: tl.constexpr, BATCH: tl.constexpr,
):  # fmt: skip
    """Find the state of each row of a batch, keep it, and write the scores with -inf where it forbids a token.

    ids int64 [batch, length]; powers int64 [length or more] of the hash; hashes and states int64 [batch], of the texts
    before their last token; after int64 [2, batch], the same of these texts; starts and tables int64 [batch]; rows
    [mask rows, words], uint8 where forbidden, or packed bits of what is allowed; scores and masked [batch, columns];
    the rest as in `token_tables.DeviceTables`.
    """
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    prefix, whole = tl.zeros((), tl.int64), tl.zeros((), tl.int64)
    for start in range(0, length, BLOCK_T):
        positions = start + tl.arange(0, BLOCK_T)
        token = tl.load(ids + row * ids_stride + positions, positions < length, -1)
        term = (token + 1) * tl.load(powers + positions, positions < length, 0)
        whole += tl.sum(term)
        prefix += tl.sum(tl.where(positions < length - 1, term, 0))
    state, table = tl.load(starts + row), tl.load(tables + row)
    if FOLLOWED:
        others = tl.arange(0, BATCH)
        valid = others < batch
        same = (tl.load(hashes + others, valid, 0) == prefix) & (tl.load(tables + others, valid, -1) == table)
        parent = tl.min(tl.where(same & valid, others, BATCH))
        if parent < BATCH:
            last = tl.load(ids + row * ids_stride + length - 1)
            token = tl.where((last < 0) | (last > num_tokens), num_tokens, last)
            token_class = tl.load(class_of + table * (num_tokens + 1) + token)
            state = tl.load(next_states + tl.load(states + parent) * num_classes + token_class).to(tl.int64)
    if block == 0:
        tl.store(after + row, whole)
        tl.store(after + batch + row, state)
    places = block * BLOCK + tl.arange(0, BLOCK)
    inside = places < columns
    mask_row = rows + tl.load(row_of + state).to(tl.int64) * words
    if PACKED:
        forbidden = ((tl.load(mask_row + places // 32, inside, 0) >> (places % 32)) & 1) == 0
    else:
        forbidden = tl.load(mask_row + places, inside, 1) != 0
    x = tl.load(scores + row * columns + places, inside).to(tl.float32)
    tl.store(masked + row * columns + places, tl.where(forbidden, float("-inf"), x), inside)
