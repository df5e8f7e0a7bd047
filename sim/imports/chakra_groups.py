"""Which ranks of a Chakra trace communicate with each other, and which collective of one is which of another.

Public: `Communicators`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from sim.imports.chakra_file import COMM_COLL, COMM_SEND, COMM_TYPES, ChakraNode
from sim.imports.chakra_rank import BY_NAME, LOST, TRANSFERS, ChakraRank, Findings
from sim.imports.issue_order import Meeting
from sim.imports.kineto import KINDS
from sim.inputs.recording import (
    COLLECTIVE,
    COLLECTIVE_KINDS,
    CollectiveKind,
    RecordedCollective,
    RecordedGroup,
)

ALL = ""  # group of all ranks
Met = tuple[int, CollectiveKind, float]  # place, kind, bytes


class Communicators:
    """Groups of ranks, and which collective of one rank is which of another."""

    def __init__(self, ranks: list[ChakraRank], members: dict[str, tuple[int, ...]], findings: Findings) -> None:
        self.ranks, self.members, self.findings = ranks, members, findings
        told = [rank.rank for rank in ranks] + [each for group in members.values() for each in group]
        told += [peer for rank in ranks for peer in self._peers(rank)]
        self.world = max(told) + 1
        self.place: dict[tuple[str, tuple[int, ...]], int] = {}
        self.lost = 0
        self.untimed = False  # whether transfers have no times

    @property
    def groups(self) -> tuple[RecordedGroup, ...]:
        """All that were met."""
        return tuple(RecordedGroup(name or "all", ranks) for name, ranks in self.place)

    def match(self) -> None:
        """Give each collective its group and number; what ranks do not agree on is refused, or mended."""
        met: dict[str, dict[int, list[Met]]] = {}
        times: list[float] = []
        for number, rank in enumerate(self.ranks):
            self._messages(rank)
            for place, node in enumerate(rank.nodes):
                if rank.kind[place] == COLLECTIVE and node.type == COMM_COLL:
                    self._met(rank, number, place, node, met)
            times += [rank.nodes[place].duration_us for place, kind in enumerate(rank.kind) if kind == COLLECTIVE]
        self.untimed = not any(times) and bool(times)
        for name, by_rank in met.items():
            self._agree(name, by_rank)
        self._check_messages()

    def _met(
        self, rank: ChakraRank, number: int, place: int, node: ChakraNode,
        met: dict[str, dict[int, list[Met]]],
    ) -> None:  # fmt: skip
        try:
            kind, size = self._kind(node), float(node.whole("comm_size", -1))
            name = str(node.attributes.get("pg_name") or ALL)
        except ValueError as error:
            self.findings.refuse(rank, place, str(error))
            return
        name = ALL if name == "0" and name not in self.members else name
        if name != ALL and name not in self.members:
            way_out = "give the file of communicators: --groups FILE"
            self.findings.refuse(rank, place, f"its group {name} is in no file of groups", way_out)
            return
        if name != ALL and rank.rank not in self.members[name]:
            self.findings.refuse(rank, place, f"rank {rank.rank} is not in its group {name}", "is a file misnamed?")
            return
        if kind is None:
            self.findings.refuse(rank, place, "is a collective of no known kind (comm_type)")
            return
        if kind == "all_gather" and size >= 0:
            size *= len(self.members[name]) if name else self.world
        met.setdefault(name, {}).setdefault(number, []).append((place, kind, size))

    def _kind(self, node: ChakraNode) -> CollectiveKind | None:
        """By its attribute, else by the name of its kernel. Raises ValueError."""
        said = node.whole("comm_type", -1)
        if 0 <= said < len(COMM_TYPES):
            found = COMM_TYPES[said]
            return next((kind for kind in COLLECTIVE_KINDS if kind == found), None)
        if said != -1:
            return None
        called = node.name.replace("_", "").lower()
        by_name = next((kind for word, kind in KINDS if word in called), None)
        self.findings.mended[BY_NAME] += by_name is not None
        return by_name

    def _agree(self, name: str, by_rank: dict[int, list[Met]]) -> None:
        """Number the collectives of a group; ranks that lack broadcasts get them, other differences are refused."""
        group = self._group(name, self.members.get(name, ()))
        longest = max(by_rank.values(), key=len)
        kinds = [kind for _, kind, _ in longest]
        for number, mine in by_rank.items():
            rank = self.ranks[number]
            there = self._with_lost(rank, mine, longest) if len(mine) < len(longest) else mine
            for sequence, ((place, kind, size), wanted) in enumerate(zip(there, kinds, strict=False)):
                if kind != wanted:
                    message = (
                        f"is {kind} number {sequence} of group {name or 'of all'}, other ranks have {wanted} there"
                    )
                    self.findings.refuse(rank, place, message)
                    break
                rank.collectives[place] = RecordedCollective(place, kind, group, sequence, size)
            if len(there) < len(longest):
                other = f"{len(there)} collectives in group {name or 'of all'}, another rank has {len(longest)}"
                self.findings.refuse(rank, there[-1][0], f"is the last of {other}")

    def _with_lost(
        self,
        rank: ChakraRank,
        mine: list[Met],
        longest: list[Met],
    ) -> list[Met]:
        """`mine` with the broadcasts that it lacks, if nothing else is different."""
        rest = [kind for _, kind, _ in longest if kind != "broadcast"]
        if [kind for _, kind, _ in mine if kind != "broadcast"] != rest or any(
            kind == "broadcast" for _, kind, _ in mine
        ):
            return mine
        left, whole = iter(mine), list[Met]()
        for _, kind, size in longest:
            whole.append(
                (self._put_in(rank, whole[-1][0] if whole else -1), kind, size) if kind == "broadcast" else next(left)
            )
        for (before, kind, _), (after, _, _) in pairwise(whole):
            if kind == "broadcast" and before not in rank.waits[after]:
                rank.waits[after].append(before)
        return whole

    def _put_in(self, rank: ChakraRank, before: int) -> int:
        """A broadcast after the collective `before`."""
        self.findings.mended[LOST] += 1
        number = max(node.id for node in rank.nodes) + 1
        rank.nodes.append(ChakraNode(number, "broadcast", COMM_COLL))
        rank.waits.append([before] if before >= 0 else [])
        rank.kind.append(COLLECTIVE)
        return len(rank.nodes) - 1

    def _group(self, name: str, ranks: tuple[int, ...]) -> int:
        return self.place.setdefault((name, ranks), len(self.place))

    # --- messages ---------------------------------------------------------------------------

    @staticmethod
    def _peers(rank: ChakraRank) -> Iterator[int]:
        for node in rank.nodes:
            if node.type in TRANSFERS:
                peer = node.attributes.get("comm_dst" if node.type == COMM_SEND else "comm_src")
                yield peer if isinstance(peer, int) and 0 <= peer < 2**20 else rank.rank

    def _messages(self, rank: ChakraRank) -> None:
        """Number sends and receives of each pair of ranks, by tag and order."""
        found: defaultdict[tuple[int, int], list[tuple[int, int, float]]] = defaultdict(list)
        for place, node in enumerate(rank.nodes):
            if rank.kind[place] != COLLECTIVE or node.type not in TRANSFERS:
                continue
            try:
                sends = node.type == COMM_SEND
                peer = node.whole("comm_dst" if sends else "comm_src", -1)
                tag, size = node.whole("comm_tag"), float(node.whole("comm_size", -1))
            except ValueError as error:
                self.findings.refuse(rank, place, str(error))
                continue
            if not 0 <= peer < self.world or peer == rank.rank:
                what = "goes to" if sends else "comes from"
                self.findings.refuse(rank, place, f"{what} rank {peer}, which is no other rank of {self.world}")
                continue
            found[(rank.rank, peer) if sends else (peer, rank.rank)].append((tag, place, size))
        for pair, messages in found.items():
            group = self._group(f"{pair[0]} to {pair[1]}", pair)
            kind: CollectiveKind = "send" if pair[0] == rank.rank else "receive"
            for sequence, (_, place, size) in enumerate(sorted(messages, key=lambda each: each[:2])):
                peer = pair[1] if kind == "send" else pair[0]
                rank.collectives[place] = RecordedCollective(place, kind, group, sequence, size, peer)

    def _check_messages(self) -> None:
        """What is sent is received, where there are files of both ranks."""
        ends: defaultdict[Meeting, dict[int, int]] = defaultdict(dict)
        for number, rank in enumerate(self.ranks):
            for place, each in rank.collectives.items():
                if each.kind in ("send", "receive"):
                    ends[each.group, each.sequence][number] = place
        there = {rank.rank for rank in self.ranks}
        for (group, _), places in ends.items():
            pair = self.groups[group].ranks
            if len(places) == 1 and set(pair) <= there:
                ((number, place),) = places.items()
                rank = self.ranks[number]
                sends = pair[0] == rank.rank
                message = f"rank {pair[1 if sends else 0]} has no {'receive' if sends else 'send'} for it"
                self.findings.refuse(rank, place, message)
