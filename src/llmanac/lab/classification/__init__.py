"""Classifiers on the command line, and the table that compares them on one labelled set."""
