"""The forms of logs: each module has TITLE, `recognises` (by what a file begins with) and `read` (its task and rows).

`recognises(path, keys, first)`: keys of the first row of a table, of the first element of an array, or the first keys
of an object. `read(path, problems)` gives the Task and an iterator of Rows, lazily; `COLUMNS`, where a form has it, are
the only columns of a Parquet file that are read.
"""
