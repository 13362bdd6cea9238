"""Speculative decoding: which sequences are drafted for, how far, and whether that saves time.

    a drafter proposes d_1 ... d_k;  one call of the model reads the last token and d_1 ... d_k;
    at place i a token x is chosen as without drafts; if x = d_{i+1} the next place follows, else the rest is forgotten

A call gives between 1 and k + 1 tokens, and they are those that plain decoding chooses. Leviathan et al. 2023 and Chen
et al. 2023 accept a drafted token with probability min(1, p / q) instead, which keeps the distribution but not the
tokens; for drafts that are not random both accept with probability p(d).

A sequence's next draft is one token longer after all were accepted, else as many tokens as were accepted and one. Time
decides whether to draft at all: seconds a token are measured with and without drafts, for each number of rows apart,
and drafting pauses where it loses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmanac.generate.drafters import Drafter
from llmanac.generate.schedule import ScheduledRow

PLAIN, DRAFTED = 3, 6  # steps that are measured before they are compared
PAUSE = 64  # plain steps after a loss, doubled by each further one
REFRESH = 128  # drafted steps until a plain one is measured again
SMOOTH = 0.2


@dataclass
class TokenPace:
    """Seconds a token for one number of rows.

    Attributes:
        seconds: of a step divided by the tokens that each row got, without and with drafts.
        steps: how many of each were measured.
        paused: plain steps until drafts are tried again; pause: how many that will be the next time.
    """

    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])
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

    def add(self, drafted: bool, seconds: float) -> None:
        kind = int(drafted)
        old, count = self.seconds[kind], self.steps[kind]
        self.seconds[kind] = seconds if not count else old + max(SMOOTH, 1 / (count + 1)) * (seconds - old)
        self.steps[kind] += 1
        if not drafted and self.steps[1] % REFRESH == REFRESH - 1:
            self.steps[1] += 1
        if drafted and self.steps[1] >= DRAFTED and self.seconds[1] > self.seconds[0]:
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
    paces: dict[int, TokenPace] = field(default_factory=dict)

    def pace(self, rows: int) -> TokenPace:
        """The times for about so many rows."""
        return self.paces.setdefault(rows.bit_length(), TokenPace())

    def draft(self, drafter: Drafter, rows: Sequence[ScheduledRow], most: Sequence[float]) -> bool:
        """Add proposed tokens to the pending ones of `rows`, which decode and may have `most` tokens each.

        Returns whether there are any.
        """
        if not self.always and not self.pace(len(rows)).drafts():
            return False
        chosen = [
            (row, room) for row, n in zip(rows, most, strict=True) if (room := _room(row, n)) > 0 and _has_grown(row)
        ]
        if not chosen:
            return False
        sequences = [row.sequence for row, _ in chosen if row.sequence is not None]
        found = drafter.propose(sequences, [room for _, room in chosen])
        for (row, _), tokens in zip(chosen, found, strict=True):
            row.pending, row.drafted = [*row.pending, *tokens], len(tokens)
        return any(found)

    def count(self, row: ScheduledRow, proposed: int, accepted: int) -> None:
        """Note what became of a sequence's draft."""
        assert row.sequence is not None
        self.proposed, self.accepted, self.calls = self.proposed + proposed, self.accepted + accepted, self.calls + 1
        row.sequence.drafted += proposed
        row.sequence.accepted += accepted
        row.sequence.draft_length = (
            accepted + 1 if accepted < proposed else max(row.sequence.draft_length, proposed + 1)
        )

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


def _room(row: ScheduledRow, most: float) -> int:
    """How many tokens may be drafted for a row: its last token is chosen by the model, and it may have `most`."""
    sequence = row.sequence
    if sequence is None or not sequence.request.speculative or not row.pending:
        return 0
    left = sequence.request.max_new_tokens - len(sequence.token_logprobs) - 1
    return int(min(left, most - row.read - len(row.pending), sequence.draft_length))
