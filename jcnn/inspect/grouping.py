"""The parts of a network: a program's steps in groups, with names.

A named scope is a part. Where there is none, a part begins with a convolution, matrix
product or pool, or with the parameters of another holder: that of "layers/0/kernel" is
"layers/0".
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .fields import num_pixels
from .jaxprs import ELEMENTWISE
from .reader import Step

_KINDS = {  # operations that parts begin with, where there are no scopes
    "conv_general_dilated": "convolution",
    "jcnn_convolution": "convolution",
    "dot_general": "matrix product",
    "reduce_window_max": "max pool",
    "reduce_window_min": "min pool",
    "reduce_window_sum": "sum pool",
    "jcnn_window_maxima": "max pool",
    "jcnn_window_sums": "sum pool",
}


class Group(NamedTuple):
    """Steps one after another, that which gives their result, and a holder."""

    steps: list[Step]
    result: Step
    holder: str

    @property
    def kind(self) -> str:
        """A word for what the steps do together."""
        notable = [s.primitive for s in self.steps if s.primitive not in ELEMENTWISE]
        kinds = [_KINDS[name] for name in notable if name in _KINDS]
        return [*kinds, *notable[::-1], self.result.primitive][0].replace("_", " ")


def group(steps: Sequence[Step], holders: Mapping[int, str]) -> list[Group]:
    """Return the parts; leaves that are parameters have holders, which may be ""."""
    parts: list[Group] = []
    for step in steps:
        known = (holders.get(leaf) for leaf in sorted(step.leaves))
        holder = next(filter(None, known), "")
        if not parts or _begins(step, holder, parts[-1]):
            parts.append(Group([step], step, holder))
        else:
            part = parts.pop()
            result = step if _gives(step, part) else part.result
            parts.append(Group([*part.steps, step], result, part.holder or holder))
    return parts


def _begins(step: Step, holder: str, part: Group) -> bool:
    """Return whether a step is not of the part before it."""
    if step.scope != part.result.scope:
        return True
    main, other = step.primitive in _KINDS, holder not in ("", part.holder)
    if step.scope:
        return main and other and part.holder != ""
    return other or main and not holder


def _gives(step: Step, part: Group) -> bool:
    """Return whether a step's result is that of its part, as far as this goes.

    Without scopes only the operations that begin parts, and elementwise ones on their
    results, give the part's: not the mean of a norm, nor what widens values for it.
    """
    if step.scope or not part.holder and part.steps[0].primitive not in _KINDS:
        return True
    if step.primitive not in ELEMENTWISE or field_of(step) != field_of(part.result):
        return step.primitive in _KINDS
    new, old = step.output, part.result.output
    if step.primitive == "convert_element_type":
        return new.size == old.size and new.dtype.itemsize < old.dtype.itemsize
    return new.shape == old.shape or new.size > old.size


def names_of(parts: Sequence[Group]) -> list[str]:
    """Return their scopes, or holders if a scope has several (Equinox), or kinds."""
    pairs = {(part.result.scope, part.holder) for part in parts if part.holder}
    scopes = Counter(scope for scope, _ in pairs if scope)
    by_scope = max(scopes.values(), default=1) == 1
    names = []
    for part in parts:
        scope = part.result.scope if by_scope or not part.holder else ""
        index = not part.holder.strip("/0123456789")  # it says nothing
        names.append(scope or ("" if index else part.holder))
    times, numbers = Counter(names), Counter[str]()
    for i, part in enumerate(parts):
        if not names[i] or times[names[i]] > 1 and not part.holder:
            numbers[part.kind] += 1
            names[i] = f"{part.kind} {numbers[part.kind]}"
    return names


def field_of(step: Step) -> tuple[int | None, ...]:
    """Return the receptive field of a step's result."""
    return tuple(map(num_pixels, step.views))
