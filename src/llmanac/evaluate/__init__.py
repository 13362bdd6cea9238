"""Evaluation: benchmarks, scores of texts, vectors, judges; of engines, and of servers by their address."""

from llmanac.core.called import called

called(__name__)
