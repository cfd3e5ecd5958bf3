"""In which order a chunked step walks its layers, and what it keeps of each: the same for every framework.

Forward through all layers, the head, backward from the last to the first. Where only every k-th layer's input is kept,
the layers between are computed forward once more, a segment of k at a time; the last segment is kept whole, since its
turn comes next.
"""

from __future__ import annotations

from collections.abc import Callable

from longrepo.engines.method import Method


def walk(
    method: Method,
    layers: int,
    forward: Callable[[int, bool, bool, bool], None],
    head: Callable[[], None],
    backward: Callable[[int], None],
) -> None:
    """`forward(layer, keep its input, keep its keys and values, discard its output)`; `backward(layer)`."""
    again = method.store == "recompute"
    segment = method.every if again else 1
    last = (layers - 1) // segment * segment
    for number in range(layers):
        whole = not again or number >= last
        forward(number, whole or number % segment == 0, whole, False)
    head()
    for first in range(last, -1, -segment):
        numbers = range(first, min(first + segment, layers))
        if again and first != last:
            for number in numbers:
                forward(number, True, True, number == numbers[-1])
        for number in reversed(numbers):
            backward(number)


def spans_of(tokens: int, chunk: int) -> list[tuple[int, int]]:
    """(start, end) of each chunk of `tokens` tokens."""
    return [(start, min(start + chunk, tokens)) for start in range(0, tokens, chunk)]
