"""ListOps expressions, grown and evaluated in one pass (compiled).

An expression is a digit or an operator with 2 to 10 arguments. What the evaluation needs of an operator's arguments is
how often each digit came, so a level of nesting is an operator, the number of arguments still to come and ten counts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tost.data.long_range.chance import below, jit, uniform

# ids of the tokens: 0 padding, 1 to 10 the digits 0 to 9, then the operators and the closing bracket
DIGIT, MIN, MAX, MED, SM, END = 1, 11, 12, 13, 14, 15
SETTINGS = "Tuple((int64, int64, int64, int64, float64))"


@jit("int64(int64, int64[::1])")
def value_of(operator: Any, counts: Any) -> Any:
    """The operator's value, of arguments that are digits, each so many times: counts [10]."""
    number, total = 0, 0
    for digit in range(10):
        number += counts[digit]
        total += digit * counts[digit]
    if operator == SM:
        return total % 10
    # the places, in sorted order, of what is asked for; the median of an even number is their mean, rounded down
    low, high = (number - 1) // 2, number // 2
    if operator == MIN:
        low, high = 0, 0
    elif operator == MAX:
        low, high = number - 1, number - 1
    seen, first, second = 0, -1, -1
    for digit in range(10):
        seen += counts[digit]
        if first < 0 and seen > low:
            first = digit
        if second < 0 and seen > high:
            second = digit
    return (first + second) // 2


@jit("UniTuple(int64, 2)(uint64[::1], int64, int64, int64, float64, uint8[::1])")
def grow(state: Any, longest: Any, max_depth: Any, max_arguments: Any, nesting: Any, tokens: Any) -> Any:
    """One expression into `tokens`: (length, value), or (0, 0) as soon as it has `longest` tokens or more.

    A node less deep than max_depth (the root has depth 1) is an operator with probability `nesting`, else a digit.
    """
    counts = np.zeros((max_depth + 1, 10), dtype=np.int64)
    operators = np.zeros(max_depth + 1, dtype=np.int64)
    missing = np.zeros(max_depth + 1, dtype=np.int64)
    depth, length = 1, 0
    while True:
        if length >= longest - 1:
            return 0, 0
        if depth < max_depth and uniform(state) < nesting:
            missing[depth] = 2 + below(state, max_arguments - 1)
            operators[depth] = MIN + below(state, 4)
            counts[depth] = 0
            tokens[length] = operators[depth]
            length, depth = length + 1, depth + 1
            continue
        value = below(state, 10)
        tokens[length] = DIGIT + value
        length += 1
        while depth > 1:  # the value is an argument; a complete operator is a value in its turn
            counts[depth - 1, value] += 1
            missing[depth - 1] -= 1
            if missing[depth - 1] > 0:
                break
            depth -= 1
            if length >= longest - 1:
                return 0, 0
            tokens[length] = END
            length += 1
            value = value_of(operators[depth], counts[depth])
        if depth == 1:
            return length, value


@jit(f"int64(uint64[::1], {SETTINGS}, int64, uint8[::1], int64[::1], int64[::1], uint64[::1])")
def fill(state: Any, settings: Any, tries: Any, flat: Any, ends: Any, values: Any, hashes: Any) -> Any:
    """Accepted expressions one after the other into `flat`, until `ends` is full; returns how many there are.

    settings: (shortest, longest, max_depth, max_arguments, nesting), shortest < length < longest.  ends, values,
    hashes: [count] where each ends in `flat`, its value and FNV-1a of its tokens.  tries: expressions grown at most.
    """
    shortest, longest, max_depth, max_arguments, nesting = settings
    made, begin = 0, 0
    for _ in range(tries):
        if made == len(ends):
            break
        length, value = grow(state, longest, max_depth, max_arguments, nesting, flat[begin:])
        if length <= shortest:
            continue
        code = np.uint64(0xCBF29CE484222325)
        for token in flat[begin : begin + length]:
            code = (code ^ np.uint64(token)) * np.uint64(0x100000001B3)
        begin += length
        ends[made], values[made], hashes[made] = begin, value, code
        made += 1
    return made
