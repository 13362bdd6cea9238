"""The forms of logs: each module has TITLE, KEYS and `read`, which gives a file's Task and its Rows, lazily.

KEYS are sets of keys by which a form is known: those of the first row of a table or array, or the first of an object.
"""
