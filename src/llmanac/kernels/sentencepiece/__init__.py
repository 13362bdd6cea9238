"""SentencePiece models: normalization, tries, Viterbi paths, merges, sampling, training."""
