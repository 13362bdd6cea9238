"""Speculative decoding: which sequences are drafted for, how far, and whether that saves time.

    a drafter proposes d_1 ... d_k;  one call of the model reads the last token and d_1 ... d_k;
    at place i a token x is chosen as without drafts; if x = d_{i+1} the next place follows, else the rest is forgotten

A call gives between 1 and k + 1 tokens, and they are those that plain decoding chooses. Leviathan et al. 2023 and Chen
et al. 2023 accept a drafted token with probability min(1, p / q) instead, which keeps the distribution but not the
tokens; for drafts that are not random both accept with probability p(d).

A sequence's next draft is one token longer after all were accepted, else as many tokens as were accepted and one. Time
decides whether to draft: a step of R rows takes P seconds without drafts and E more for each drafted token, so that a
row's draft pays where more than E R / P of its tokens are accepted. Both are measured, for each number of rows apart. A
sequence whose drafts were accepted less often pauses, and so do all where no acceptance could pay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmanac.generate.drafters import Drafter
from llmanac.generate.schedule import ScheduledRow

PLAIN, DRAFTED = 3, 6  # steps that are measured before they are compared
PAUSE = 64  # plain steps after drafts that cannot pay, doubled by each further loss
REFRESH = 128  # drafted steps until a plain one is measured again
SMOOTH = 0.2
JUDGED, REMEMBERED = (
    4,
    16,
)  # drafted tokens before a sequence's acceptance counts, and after which older ones count half


@dataclass
class DraftCost:
    """Seconds of a step for one number of rows.

    Attributes:
        plain: of a step without drafts; extra: more for each drafted token of any row.
        steps: how many were measured without and with drafts.
        paused: plain steps until drafts are tried again; pause: how many that will be the next time.
    """

    plain: float = 0.0
    extra: float = 0.0
    steps: list[int] = field(default_factory=lambda: [0, 0])
    paused: int = 0
    pause: int = PAUSE

    def drafts(self) -> bool:
        """Whether the next step drafts."""
        if self.steps[0] < PLAIN:
            return False
        if self.paused:
            self.paused -= 1
            return False
        return self.steps[1] % REFRESH != REFRESH - 1 or not self.steps[1]

    def price(self, rows: int) -> float:
        """The share of a row's drafted tokens that must be accepted to save time; 0 until it is known."""
        return self.extra * rows / self.plain if self.steps[1] >= DRAFTED and self.plain else 0.0

    def add(self, rows: int, proposed: int, seconds: float) -> None:
        """A step of so many rows, with that many drafted tokens, took these seconds."""
        kind = int(proposed > 0)
        weight = max(SMOOTH, 1 / (self.steps[kind] + 1))
        if proposed:
            self.extra += weight * (max(0.0, seconds - self.plain) / proposed - self.extra)
        else:
            self.plain += weight * (seconds - self.plain)
        self.steps[kind] += 1
        if not proposed and self.steps[1] % REFRESH == REFRESH - 1:
            self.steps[1] += 1
        if proposed and self.price(rows) >= 1:
            self.paused, self.pause = self.pause, 2 * self.pause
            self.steps[1] = 0


@dataclass
class Speculation:
    """Counts and times of an engine, over all of its requests.

    Attributes:
        always: draft without regard to time (for tests and measurements of acceptance).
        proposed, accepted: drafted tokens; calls: of a sequence with drafts.
    """

    always: bool = False
    proposed: int = 0
    accepted: int = 0
    calls: int = 0
    costs: dict[int, DraftCost] = field(default_factory=dict)
    price: float = 0.0

    def cost(self, rows: int) -> DraftCost:
        """The times for about so many rows."""
        return self.costs.setdefault(rows.bit_length(), DraftCost())

    def draft(self, drafter: Drafter, rows: Sequence[ScheduledRow], most: Sequence[float]) -> int:
        """Add proposed tokens to the pending ones of `rows`, which decode and may have `most` tokens each.

        Returns how many there are.
        """
        cost = self.cost(len(rows))
        self.price = cost.price(len(rows))
        if not self.always and not cost.drafts():
            return 0
        chosen = [
            (row, room)
            for row, n in zip(rows, most, strict=True)
            if (room := _room(row, n)) > 0 and _has_grown(row) and (self.always or _waits_no_more(row))
        ]
        if not chosen:
            return 0
        sequences = [row.sequence for row, _ in chosen if row.sequence is not None]
        found = drafter.propose(sequences, [room for _, room in chosen])
        for (row, _), tokens in zip(chosen, found, strict=True):
            row.pending, row.drafted = [*row.pending, *tokens], len(tokens)
        return sum(map(len, found))

    def count(self, row: ScheduledRow, proposed: int, accepted: int) -> None:
        """Note what became of a sequence's draft."""
        assert row.sequence is not None
        self.proposed, self.accepted, self.calls = self.proposed + proposed, self.accepted + accepted, self.calls + 1
        sequence = row.sequence
        sequence.drafted += proposed
        sequence.accepted += accepted
        sequence.draft_length = accepted + 1 if accepted < proposed else max(sequence.draft_length, proposed + 1)
        tried, hit = (old / 2 if sequence.draft_trust[0] >= REMEMBERED else old for old in sequence.draft_trust)
        tried, hit = tried + proposed, hit + accepted
        if tried >= JUDGED and hit < self.price * tried:
            sequence.draft_wait, sequence.draft_pause = sequence.draft_pause, 2 * sequence.draft_pause
            tried = hit = 0.0
        sequence.draft_trust = (tried, hit)

    def report(self) -> dict[str, float | int | None]:
        """Counts so far; `tokens_per_call` of the model, for a sequence that was drafted for."""
        calls = self.calls
        return {
            "proposed": self.proposed,
            "accepted": self.accepted,
            "acceptance": self.accepted / self.proposed if self.proposed else None,
            "tokens_per_call": 1 + self.accepted / calls if calls else None,
        }


def _has_grown(row: ScheduledRow) -> bool:
    """Whether a row has tokens that it was not drafted for yet; forced ones may take several calls to read."""
    assert row.sequence is not None
    before, row.sequence.drafted_at = row.sequence.drafted_at, len(row.sequence.token_logprobs)
    return row.sequence.drafted_at > before


def _waits_no_more(row: ScheduledRow) -> bool:
    """Whether a row's pause after drafts that lost is over; this is a step of it."""
    assert row.sequence is not None
    row.sequence.draft_wait = max(0, row.sequence.draft_wait - 1)
    return not row.sequence.draft_wait


def _room(row: ScheduledRow, most: float) -> int:
    """How many tokens may be drafted for a row: its last token is chosen by the model, and it may have `most`."""
    sequence = row.sequence
    if sequence is None or not sequence.request.speculative or not row.pending:
        return 0
    left = sequence.request.max_new_tokens - len(sequence.token_logprobs) - 1
    return int(min(left, most - row.read - len(row.pending), sequence.draft_length))
