"""Added tokens that are looked for in normalised text, as Hugging Face `tokenizers` does it for any normaliser.

Such a token is itself normalised first, and the text between two of them is normalised already: a normaliser that puts
something in front must not do so again.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers._added import AddedToken, AddedTokens, Normalize, TextPart, _Matcher


class Normalised(str):
    """A text that has been normalised."""

    __slots__ = ()


class NormalTokens(AddedTokens):
    """Added tokens of a tokenizer with a normaliser; `form` gives the normal form of a token's text.

    Plain text between tokens comes as `Normalised` where any token is looked for after normalisation.
    """

    def __init__(self, tokens: Sequence[AddedToken], form: Callable[[str], str]) -> None:
        super().__init__(tokens)
        self._forms = {token.text: form(token.text) for token in self.tokens if token.normalized}
        empty = next((text for text, found in self._forms.items() if not found), None)
        if empty is not None:
            raise TokenizerError(f"added token {empty!r}: nothing is left of it once it is normalized; not supported")
        self._written = {token.id: self._forms.get(token.text, token.text) for token in self.tokens}
        found = [replace(t, text=self._forms[t.text]) for t in self.tokens if t.normalized]
        self._after = _Matcher(list({token.text: token for token in found}.values()))

    def written(self, token: AddedToken) -> str:
        """A token as decoding writes it: in its normal form, where it is looked for after normalisation."""
        return self._written[token.id]

    def split(self, text: str, allowed: frozenset[str], normalize: Normalize) -> list[TextPart]:
        """The added tokens in a text (special ones only if in `allowed`) and the plain text between them, in order."""
        both = allowed | {self._forms[text] for text in allowed if text in self._forms}
        parts = super().split(text, both, normalize)
        if not self._after:
            return parts
        return [part if part.token is not None else replace(part, text=Normalised(part.text)) for part in parts]
