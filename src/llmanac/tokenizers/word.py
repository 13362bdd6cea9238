r"""Whole words as tokens, with a frequency cut-off: the vocabulary of language models before subwords.

Text is cut into words, the `vocab_size` most frequent ones (and at least `min_frequency` times) become tokens, and all
others are one unknown token. Words are many and mostly rare (Zipf: the r-th most frequent of them occurs about 1/r as
often as the first), so a large vocabulary still leaves a fraction of running text unknown,

    out-of-vocabulary rate = unknown words of a text / words of it

which `Tokenizer.unknown_rate` measures. Sequences are short: a token a word.

Ids: special tokens first, then the words by falling count, equally frequent ones in the order of their bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from llmanac.core.errors import SpecError
from llmanac.tokenizers import TokenizerSpec
from llmanac.tokenizers._counting import count_pieces
from llmanac.tokenizers._roles import check_special_tokens, roles_of
from llmanac.tokenizers._word import WordLevel, ranked_words, special_first
from llmanac.tokenizers.patterns.words import WordSplitter

CARD = {
    "title": "Words with a frequency cut-off",
    "paper": "Luong et al. 2015, Addressing the Rare Word Problem in Neural Machine Translation, section 3",
    "reference": "tokenizers.models.WordLevel and tokenizers.trainers.WordLevelTrainer",
}


@dataclass(frozen=True, kw_only=True)
class Spec(TokenizerSpec):
    r"""How to learn a vocabulary of words.

    Attributes:
        vocab_size: ids in all: special tokens, then words. A corpus with fewer words gives fewer.
        pattern: how text is cut: whitespace (`\w+|[^\w\s]+`) and whitespace-split (`\S+`) drop white space; gpt2, gpt4,
            llama3, o200k, qwen3 or a regex keep it, so that only unknown words are lost.
        special_tokens: control tokens, which take the ids from 0 on in this order.
        unknown: the token for all other words; it comes after `special_tokens` where it is not among them.
        min_frequency: a word that occurs less often is left out.
        chat_template: Jinja source; unset, one made for `<|user|>` and `<|assistant|>` or `<|im_start|>`, if there.
    """

    vocab_size: int = 30_000
    pattern: str = "whitespace"
    special_tokens: tuple[str, ...] = ("[UNK]", "[PAD]", "[BOS]", "[EOS]")
    unknown: str = "[UNK]"
    min_frequency: int = 0
    chat_template: str | None = None

    @property
    def special(self) -> tuple[str, ...]:
        """All special tokens, the unknown one included."""
        return self.special_tokens if self.unknown in self.special_tokens else (*self.special_tokens, self.unknown)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_special_tokens(self.special_tokens)
        if not self.unknown:
            raise SpecError("unknown: is empty; name the token that stands for unknown words")
        check_special_tokens(self.special)
        if not len(self.special) < self.vocab_size < 1 << 30:
            least = len(self.special) + 1
            raise SpecError(f"vocab_size: {self.vocab_size} is not between {least} and {(1 << 30) - 1}")
        try:
            WordSplitter.named(self.pattern)
        except SpecError as error:
            raise SpecError(f"pattern: {error}") from None

    def train(self, texts: Iterable[str]) -> WordLevel:
        """Count the words of a stream of texts and keep the most frequent.

        Raises:
            DataError: no text at all, or an item that is no text.
        """
        splitter = WordSplitter.named(self.pattern)
        special = list(self.special)
        counted = count_pieces(texts, splitter, "tokenizer/word")
        room = self.vocab_size - len(special)
        found = ranked_words(counted, splitter, most=room, min_frequency=self.min_frequency)
        tokens, added = special_first(special, [word for word, _ in found])
        return WordLevel(
            tokens=tokens,
            splitter=splitter,
            unknown=next(token.id for token in added if token.text == self.unknown),
            added=added,
            **roles_of(self, special, self.unknown),
        )
