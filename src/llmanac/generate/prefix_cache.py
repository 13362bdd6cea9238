"""The prefix cache: the state of a prompt's beginning is kept, and prompts that begin alike reuse it.

Every prompt and every finished answer leaves its full blocks in a pool (`models/state/pool.py`), found again by the
hash of their tokens and of all tokens before them; so a system prompt is read once, and a conversation's next turn
reads only what is new. At least one token of a prompt is always read, since its logits begin the answer. Blocks hold
nothing but keys and values of tokens that the new request has itself; only its time shows from outside.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llmanac.core.errors import RequestError
from llmanac.models.state.paged import PagedState
from llmanac.models.state.pool import BlockPool

DEFAULT_BYTES = 256 * 2**20  # what a server keeps where nothing else is said


class PrefixCache:
    """The pool of one model, for one or more schedulers; a step with it holds `lock`.

    Args:
        new_pool: makes an empty pool of the model's blocks of so many bytes.
        stamp: what changes when the model's weights do.
        budget: bytes that blocks may take before idle ones are given up.

    Attributes:
        prompt_tokens, reused_tokens: how many tokens the prompts had, and how many of them were not computed.

    Raises:
        RequestError: a budget that is not positive, or a model whose state cannot be kept in blocks.
    """

    def __init__(
        self, new_pool: Callable[[int], BlockPool], stamp: Callable[[], Sequence[tuple[Any, ...]]], budget: int
    ) -> None:
        if budget < 1:
            raise RequestError(f"prefix_cache_bytes: {budget} is not at least 1; leave it out to keep nothing")
        self.budget, self._make, self._stamp = int(budget), new_pool, stamp
        self.prompt_tokens = self.reused_tokens = 0
        self.pool = self._new_pool()
        self.block_tokens = self.pool.block_tokens
        self._weights = stamp()
        self._epoch = 0  # counts changes of the weights

    @property
    def lock(self) -> Any:
        return self.pool.lock

    def _new_pool(self) -> BlockPool:
        try:
            return self._make(self.budget)
        except RequestError as error:
            raise RequestError(f"prefix_cache_bytes: {error}") from error

    def start(
        self, prompts: Sequence[Sequence[int] | None], keys: Sequence[bytes] | None = None
    ) -> tuple[Any, list[int]]:
        """A state that already holds what it can of each prompt, and how many tokens that is for each.

        A prompt of None is read from its start (its own tokens are to be scored). Rows of another key (an adapter's)
        share nothing.
        """
        self._check_weights()
        rows, counts = [], []
        for prompt, key in zip(prompts, keys or [b""] * len(prompts), strict=True):
            found = [] if prompt is None else self.pool.find(prompt[:-1], key)
            rows.append(found)
            counts.append(len(found) * self.block_tokens)
            if prompt is not None:
                self.prompt_tokens += len(prompt)
                self.reused_tokens += counts[-1]
        state = PagedState(self.pool, rows, list(counts))
        for made in state.rows:
            made.epoch = self._epoch
        return state, counts

    def keep(self, state: Any, row: int, ids: Sequence[int], key: bytes = b"") -> None:
        """Let the full blocks of a row be found again; `ids` are its tokens (more than it holds are ignored)."""
        self._check_weights()
        if isinstance(state, PagedState) and state.pool is self.pool and state.rows[row].epoch == self._epoch:
            self.pool.register(state.blocks[row], ids[: state.counts[row]], key)

    def clear(self) -> None:
        """Keep nothing of what was read so far, nor of what rows that run have read."""
        with self.lock:
            self._epoch += 1
            self.pool.forget()

    def _check_weights(self) -> None:
        stamp = self._stamp()
        if stamp == self._weights:
            return
        self._epoch += 1
        if [entry[1:2] + entry[3:] for entry in stamp] != [entry[1:2] + entry[3:] for entry in self._weights]:
            self.pool = self._new_pool()  # other numbers need other stores
        else:
            self.pool.forget()
        self._weights = stamp

    def report(self) -> dict[str, int]:
        """Counters, for `/health`."""
        pool = self.pool
        return {
            "budget_bytes": self.budget,
            "bytes": pool.nbytes,
            "block_tokens": self.block_tokens,
            "blocks_in_use": pool.held,
            "blocks_kept": pool.idle,
            "evictions": pool.evictions,
            "prompt_tokens": self.prompt_tokens,
            "reused_tokens": self.reused_tokens,
        }
