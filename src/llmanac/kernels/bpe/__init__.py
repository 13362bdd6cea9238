"""Byte-pair encoding: training, encoding, dropout, more merges."""
