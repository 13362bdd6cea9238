"""Two or more systems' logs of an evaluation, paired item by item: whether one is better (`llmanac verdict`).

forms/        a module a form of log: what its rows hold
items.py      the rows, held small
load.py       a file or a folder to its items
pairing.py    the items of two logs, or why they do not pair
decide.py     the statistics of the pairs
judged.py     `verdict`: all of it
page.py       the report
"""
