"""Values worth keeping because the next question may need them again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from typing_extensions import override

ValueT = TypeVar("ValueT")


class Memo(Generic[ValueT]):
    """The last values made, by key, as long as their weights sum to at most `limit`; at least the last one."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.known: OrderedDict[Hashable, tuple[ValueT, float]] = OrderedDict()
        self.weight = 0.0

    def get(self, key: Hashable, make: Callable[[], ValueT], weigh: Callable[[ValueT], float]) -> ValueT:
        """The value of `key`, made if it is not known."""
        if key in self.known:
            self.known.move_to_end(key)
            return self.known[key][0]
        return self.put(key, make(), weigh)

    def put(self, key: Hashable, value: ValueT, weigh: Callable[[ValueT], float]) -> ValueT:
        """Keep `value` for `key`, whatever was known."""
        if key in self.known:
            self.weight -= self.known.pop(key)[1]
        weight = weigh(value)
        self.known[key] = value, weight
        self.weight += weight
        while self.weight > self.limit and len(self.known) > 1:
            _, (_, lost) = self.known.popitem(last=False)
            self.weight -= lost
        return value


class Same:
    """A key that is equal to that of the very same object alone, which it keeps."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    @override
    def __hash__(self) -> int:
        return id(self.value)
