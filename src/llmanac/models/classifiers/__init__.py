"""Classifiers: a text to one of a few labels. Every method has the same interface, see `_base.Classifier`."""

from dataclasses import dataclass

from llmanac.core.spec import Spec


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec(Spec):
    """`build() -> Classifier`; `build(model=, tokenizer=)` for methods that use a language model."""

    kind = "classifier"
    ngrams = 1  # a field of some
    trained = "none"  # another one: what of a language model is trained
