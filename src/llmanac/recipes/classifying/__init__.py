"""`llmanac classify`: train a classifier on a file, open it, label and evaluate files."""
