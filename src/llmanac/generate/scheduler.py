"""The loop of the engine: requests wait, are read, run together, and leave one by one.

`schedule.py` decides what is computed, a runner computes it, `_sampling.py` turns logits into tokens; this file keeps
the rows. A prompt's samples fork from its row once it is read; a row that ends leaves at once, and only rows that
change their place are copied. With a prefix cache the state is paged, and the beginning of an earlier prompt or answer
is not read again (`prefix_cache.py`).
"""

import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from llmanac.core.errors import RequestError
from llmanac.core.types import LanguageModel, capabilities
from llmanac.generate._rows import ROOM, ModelRunner
from llmanac.generate._sampling import choose, continuations, score_given, score_prompt
from llmanac.generate.decoding import Array
from llmanac.generate.drafters import Drafter
from llmanac.generate.prefix_cache import PrefixCache
from llmanac.generate.requests import Request, Sequence, TokenLogprob
from llmanac.generate.schedule import GROWTH, PromptPieces, ReadCall, ScheduledRow, admit, compact, exchanged, schedule
from llmanac.generate.speculative import Speculation

Choose = Callable[[Array, list[Sequence]], list[TokenLogprob]]  # a token for each row of logits (B, V)
FORCED = 1024  # tokens that a constraint may force in one step


class Scheduler:
    """Runs requests on a model, a step at a time.

    Args:
        runner: computes the model.
        rows: how many sequences run at once; a single request with more samples than that runs alone.
        prefix_cache: where the states of prompts and answers are kept for later ones; None keeps nothing.
        drafter: guesses tokens ahead; `speculation` counts them and may be shared by schedulers of one engine.
        max_num_batched_tokens: that all rows may hold together; beyond it the youngest request waits and is read again.
            The oldest always goes on. None sets no bound.
        slower: how many times as long a step may take where it reads a part of a prompt too; None does not look at
            the time, so that what a call computes does not depend on it.

    Attributes:
        preemptions: how often a request was put back.
        clock: seconds, for what is decided by time.
        choose: takes the place of the requests' own decoding methods, or None.
    """

    clock: Callable[[], float] = staticmethod(time.perf_counter)

    def __init__(
        self,
        model: LanguageModel,
        *,
        runner: ModelRunner,
        rows: int = 32,
        prefix_cache: PrefixCache | None = None,
        drafter: Drafter | None = None,
        speculation: Speculation | None = None,
        max_num_batched_tokens: int | None = None,
        slower: float | None = None,
    ) -> None:
        self.model, self.rows, self.prefix_cache = model, rows, prefix_cache
        self.runner = runner
        self.drafter, self.speculation = drafter, speculation or Speculation()
        self.max_num_batched_tokens, self.pieces, self.preemptions = max_num_batched_tokens, PromptPieces(slower), 0
        self.choose: Choose | None = None
        self._arrivals = itertools.count()
        self.waiting: deque[Request] = deque()
        self.table: list[ScheduledRow] = []
        self._open: list[tuple[ScheduledRow, Array]] = []  # beams, and the logits (V,) of what follows
        self._start_id: int | None = capabilities(model).start_id

    @property
    def running(self) -> list[Sequence]:
        """The sequences that decode."""
        return [row.sequence for row in self.table if row.sequence is not None]

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.table)

    def submit(self, request: Request) -> None:
        """Queue a request; it starts as soon as there are rows for it, first come first served."""
        request.arrival = next(self._arrivals)
        self.waiting.append(request)

    def cancel(self, request: Request) -> None:
        """Forget a request, waiting or running; its rows leave the batch now."""
        if request in self.waiting:
            self.waiting.remove(request)
        with self._lock():
            self._keep([row.request is not request for row in self.table])

    def reset(self) -> None:
        """Forget everything, after an error in the model."""
        self.waiting.clear()
        self.table, self._open = [], []
        self.runner.reset()
        self._forget_drafts()

    def step(self) -> list[Sequence]:
        """Advance every running sequence by a token and read what fits of the prompts; returns what moved."""
        with self._lock():
            moved: list[Sequence] = []
            finished: list[tuple[ScheduledRow, Array]] = []
            self._make_room()
            self._admit()
            times = [self.clock()]
            with self._drafting():
                calls = deque(schedule(self.table, self.model.vocab_size, self.pieces.most))
                while calls and self.table[calls[0].start].sequence is not None:
                    call = calls.popleft()
                    moved += self._decode(call, self.table[call.start : call.stop])
            times.append(self.clock())
            for call in calls:
                finished += self._read(call, self.table[call.start : call.stop])
            times.append(self.clock())
            read = sum((call.stop - call.start) * call.tokens for call in calls)
            self.pieces.add(times[1] - times[0] if moved or self._open else 0.0, times[2] - times[1], read)
            moved += self._begin(finished)
            self._keep([row.sequence is None or row.sequence.finish_reason is None for row in self.table])
            return moved

    def _lock(self) -> Any:
        """Held while blocks change hands: a prefix cache may serve another thread's scheduler too."""
        return contextlib.nullcontext() if self.prefix_cache is None else self.prefix_cache.lock

    @contextlib.contextmanager
    def _drafting(self) -> Iterator[None]:
        """Draft for the rows that decode, and measure the seconds of the step in here."""
        rows = [row for row in self.table if row.sequence is not None]
        if self.drafter is None or not rows:
            yield
            return
        before, start = [len(row.sequence.token_logprobs) for row in rows if row.sequence], self.clock()
        ends = [min(self.model.max_length or math.inf, self.runner.lasts(i)) for i in range(len(rows))]
        drafted = self.speculation.draft(self.drafter, rows, ends)
        yield
        after = [len(row.sequence.token_logprobs) for row in rows if row.sequence]
        if after != before:
            self.speculation.cost(len(rows)).add(len(rows), drafted, self.clock() - start)

    def _forget_drafts(self) -> None:
        if self.drafter is not None:
            self.drafter.reset()

    @property
    def held(self) -> int:
        """Tokens that the rows hold or are about to read; what rows of a pool share counts once."""
        pending = sum(len(row.pending) for row in self.table)
        if self.prefix_cache is None:
            return pending + sum(row.read for row in self.table)
        return pending + self.prefix_cache.pool.held * self.prefix_cache.block_tokens

    def _make_room(self) -> None:
        """Put the youngest requests back until the others' next tokens fit."""
        while self.max_num_batched_tokens is not None and self.held > self.max_num_batched_tokens:
            running = {row.request.arrival: row.request for row in self.table}
            if len(running) < 2:
                return
            youngest = running[max(running)]
            rows = [row for row in self.table if row.request is youngest]
            found = [(r.sequence, r.pending) if r.sequence is not None else r.resumes for r in rows]
            youngest.paused = [entry for entry in found if entry is not None and youngest.search is None]
            self._keep([row.request is not youngest for row in self.table])
            self.waiting.appendleft(youngest)
            self.preemptions += 1

    def _admit(self) -> None:
        """Give the requests that start now a row each, or one a sequence that was put back, behind all others."""
        used = sum(row.rows for row in self.table)
        room = (
            math.inf if self.max_num_batched_tokens is None else self.max_num_batched_tokens - self.held - GROWTH * used
        )
        taken = admit(self.waiting, self.rows, self.rows - used, room)
        if not taken:
            return
        made = [row for request in taken for row in self._rows(request)]
        fresh = [self._start_id is not None or row.scored or row.request.images is not None for row in made]
        cached = [None if anew else row.pending for anew, row in zip(fresh, made, strict=True)]
        longest = max(len(row.pending) + min(ROOM, row.request.max_new_tokens) for row in made)
        planned = [len(row.pending) + (len(row.resumes[1]) if row.resumes else 0) for row in made]
        own = {"adapters": [row.request.adapter for row in made], "images": [row.request.images for row in made]}
        further = {name: values for name, values in own.items() if any(value is not None for value in values)}
        for row, count in zip(made, self.runner.extend(cached, longest, planned, **further), strict=True):
            row.read, row.pending = count, row.pending[count:]
            if self.prefix_cache is not None and row.resumes is None:
                row.request.cached_tokens = count
        self.table += made

    def _rows(self, request: Request) -> list[ScheduledRow]:
        """The rows of a request that starts: with all that each has to read first."""
        if request.paused:
            paused, request.paused = request.paused, []
            texts = [[*request.prompt, *sequence.ids][: -len(pending)] for sequence, pending in paused]
            return [ScheduledRow(request, text, resumes=entry) for text, entry in zip(texts, paused, strict=True)]
        scored = request.prompt_logprobs is not None
        request.prompt_token_logprobs = [TokenLogprob(request.prompt[0], None)] if scored else []
        if self._start_id is None:
            return [ScheduledRow(request, list(request.prompt))]
        return [ScheduledRow(request, [self._start_id], source=len(request.prompt))]

    def _run(self, call: ReadCall, rows: list[ScheduledRow]) -> tuple[Array, list[list[int]]]:
        """The logits of a call, and the tokens that each row read."""
        tokens = [row.pending[: call.tokens] for row in rows]
        # an encoder-decoder reads the prompts as sources, with the first token of its answers
        begins = self._start_id is not None and rows[0].sequence is None
        source = [row.request.prompt for row in rows] if begins else None
        logits = self.runner.read(call.start, tokens, every=call.scored, source=source)
        for row, given in zip(rows, tokens, strict=True):
            row.pending = row.pending[len(given) :]
            row.read += len(given)
        return logits, tokens

    def _decode(self, call: ReadCall, rows: list[ScheduledRow]) -> list[Sequence]:
        """Read the pending tokens of rows that decode, and choose what follows; drafts are accepted or forgotten."""
        for at, row in enumerate(rows, call.start):
            if row.length > self.runner.lasts(at):
                self.runner.read_again(at, row.held, row.length)
        drafted, before = [row.drafted for row in rows], [row.read for row in rows]
        sure = [len(row.pending) - row.drafted for row in rows]  # what is not a guess
        mark = self.runner.mark(call.start, call.stop) if any(drafted) else None
        logits, tokens = self._run(call, rows)
        sequences = [row.sequence for row in rows if row.sequence is not None]
        if call.scored:  # forced tokens were read too: their own log-probabilities are known now
            for row, start, given, n, own in zip(rows, before, tokens, sure, logits, strict=True):
                assert row.sequence is not None
                coming = row.pending[:1] if len(given) < n else []  # what the last token read here predicts
                score_given(row.sequence, start - row.request.first + 1, [*given[1:n], *coming], own)
        place = [min(n, len(given)) - 1 for n, given in zip(sure, tokens, strict=True)]
        ready = [i for i, given in enumerate(tokens) if len(given) >= sure[i]]  # the others have more to read first
        self._open += [(rows[i], logits[i, place[i]]) for i in ready if rows[i].request.search is not None]
        ready = [i for i in ready if rows[i].request.search is None]
        while ready:
            if logits.shape[1] == 1 and len(ready) == len(rows):
                last = logits[:, 0]
            else:
                last = logits[ready, [place[i] for i in ready]]
            going = []
            for i, chosen in zip(ready, self._choose(last, [sequences[i] for i in ready]), strict=True):
                rows[i].pending = self._push(sequences[i], chosen)
                ahead = tokens[i][place[i] + 1 : place[i] + 2]
                if rows[i].pending == ahead and sequences[i].finish_reason is None:
                    place[i] += 1
                    going.append(i)
            ready = going
        if mark is not None:
            self._settle(call, rows, tokens, mark, before, place)
        for row, given, n, count, at in zip(rows, tokens, sure, drafted, place, strict=True):
            if count:
                row.pending = row.pending if len(given) >= n else row.pending[: n - len(given)]
                row.drafted = 0
                if self.speculation is not None:
                    self.speculation.count(row, max(0, len(given) - n), at + 1 - min(n, len(given)))
        return [sequence for sequence in sequences if sequence.request.search is None]

    def _choose(self, logits: Array, sequences: list[Sequence]) -> list[TokenLogprob]:
        if self.choose is not None:
            return self.choose(logits, sequences)
        return choose(logits, sequences, self.runner.best)

    def _settle(
        self,
        call: ReadCall,
        rows: list[ScheduledRow],
        tokens: list[list[int]],
        mark: Any,
        before: list[int],
        place: list[int],
    ) -> None:
        """Take back what was read past the accepted tokens; where a state returns further, they are read again."""
        lengths = [n + at + 1 for n, at in zip(before, place, strict=True)]
        if lengths == [row.read for row in rows]:
            return
        held = self.runner.rewind(call.start, mark, lengths, before)
        for row, given, start, length, now in zip(rows, tokens, before, lengths, held, strict=True):
            row.pending = [*given[now - start : length - start], *row.pending]
            row.read = now

    def _push(self, sequence: Any, chosen: TokenLogprob) -> list[int]:
        """Add a token and those that its constraint forces after it; returns them as what is to be read."""
        new, token = [], chosen
        sequence.due = None
        try:
            while sequence.error is None:
                sequence.push(token)
                new.append(token.id)
                if len(new) > FORCED or sequence.finish_reason is not None or (forced := sequence.forced()) is None:
                    return new
                if type(forced) is not int or not 0 <= forced < self.model.vocab_size:
                    size = self.model.vocab_size
                    raise RequestError(f"constraint: forced {forced!r}, which is not a token id below {size}")
                if sequence.request.logprobs is not None:  # chosen like any other, to have a log-probability
                    sequence.due = forced
                    return new
                token = TokenLogprob(forced, None)
        except RequestError as error:  # as in `_sampling`: this text ends, and the others go on
            sequence.error = error
        sequence.finish_reason = "length"
        return []

    def _read(self, call: ReadCall, rows: list[ScheduledRow]) -> list[tuple[ScheduledRow, Array]]:
        """Read a piece of some prompts; the rows whose prompts end with it, and the logits (V,) of what follows."""
        before = [row.read for row in rows]
        logits, tokens = self._run(call, rows)
        if call.scored:
            for row, start, own in zip(rows, before, logits, strict=True):
                prompt = row.request.prompt
                targets = prompt[start + 1 : start + 1 + len(own)]
                if targets:
                    alternatives = row.request.prompt_logprobs or 0
                    row.request.prompt_token_logprobs += score_prompt(own[: len(targets)], targets, alternatives)
        last = [len(given) - 1 if call.scored else 0 for given in tokens]
        return [(row, logits[i, last[i]]) for i, row in enumerate(rows) if not row.pending]

    def _begin(self, finished: list[tuple[ScheduledRow, Array]]) -> list[Sequence]:
        """Fork a row for each sample of the prompts that were read, and choose their first tokens; beams fork too."""
        if not finished and not self._open:
            return []
        done = {id(row): logits for row, logits in finished}
        grown, moved = self._search(finished)
        order, table, starting = [], [], []
        for index, row in enumerate(self.table):
            if id(row) in grown:
                order += [index] * len(grown[id(row)])
                table += [ScheduledRow(row.request, [text.ids[-1]], text, row.read) for text in grown[id(row)]]
                if row.sequence is None:
                    self.runner.keep(index, row.request.prompt)
                continue
            if id(row) not in done:
                order.append(index)
                table.append(row)
                continue
            self.runner.keep(index, row.request.prompt)
            if row.resumes is not None:
                order.append(index)
                table.append(ScheduledRow(row.request, row.resumes[1], row.resumes[0], row.read))
                continue
            for sequence in row.request.sequences:
                order.append(index)
                table.append(ScheduledRow(row.request, [], sequence, row.read))
                starting.append((table[-1], done[id(row)]))
        self.runner.arrange(exchanged(order, [row.read == 0 for row in self.table]))
        self.table = table
        going = [(row, logits) for row, logits in starting if row.request.max_new_tokens]
        if going:
            sequences = [row.sequence for row, _ in going if row.sequence is not None]
            chosen = self._choose(np.stack([logits for _, logits in going]), sequences)
            for (row, _), token in zip(going, chosen, strict=True):
                row.pending = self._push(row.sequence, token)
        for row, _ in starting:
            if not row.request.max_new_tokens and row.sequence is not None:
                row.sequence.finish("length")
        if not table:
            self._forget_drafts()
        return moved + [row.sequence for row, _ in starting if row.sequence is not None]

    def _search(self, finished: list[tuple[ScheduledRow, Array]]) -> tuple[dict[int, list[Sequence]], list[Sequence]]:
        """Go one step on with every beam search: the new texts of each row (by its id), and what ended."""
        begun = [(row, at) for row, at in finished if row.request.search is not None and row.request.max_new_tokens]
        opened, self._open = [*self._open, *begun], []
        if not opened:
            return {}, []
        texts = [row.sequence or row.request.start_search().leaves[0] for row, _ in opened]
        logprobs, scores, tops = continuations(np.stack([logits for _, logits in opened]), texts)
        place = {id(text): at for at, text in enumerate(texts)}
        grown: dict[int, list[Sequence]] = {id(row): [] for row, _ in opened}
        ended: list[Sequence] = []
        for request in {id(row.request): row.request for row, _ in opened}.values():
            search = request.searching
            assert search is not None
            own = [place[id(leaf)] for leaf in search.leaves]
            for parent, text in search.step(logprobs[own], scores[own], [tops[i] for i in own]):
                grown[id(opened[place[id(parent)]][0])].append(text)
            if not search.leaves:
                request.sequences[:] = search.best(len(request.sequences))
                ended += request.sequences
        return grown, ended

    def _keep(self, keep: list[bool]) -> None:
        """Drop the rows that are not kept; the last rows of the same kind take their places."""
        if all(keep):
            return
        for index, row in enumerate(self.table):
            if not keep[index] and row.sequence is not None:
                self.runner.keep(index, (*row.request.prompt, *(t.id for t in row.sequence.token_logprobs)))
        order = compact([row.sequence is not None for row in self.table], keep)
        self.runner.arrange(exchanged(order, [row.read == 0 for row in self.table]))
        self.table = [self.table[i] for i in order]
        if not self.table:
            self._forget_drafts()
