"""Counting language models: counts, the trie that answers, words and their ids, ARPA and binary files."""
