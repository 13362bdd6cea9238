"""Generation: one engine for sampling, evaluation, serving and rollouts. It knows a model only as `LanguageModel`."""

from llmanac.core.called import called

called(__name__)
