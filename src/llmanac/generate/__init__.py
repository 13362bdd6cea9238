"""Generation: one engine for sampling, evaluation, serving and rollouts. It knows a model only as `LanguageModel`."""
