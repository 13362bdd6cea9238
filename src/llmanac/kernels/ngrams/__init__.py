"""N-gram models: counts, queries, ARPA files."""
