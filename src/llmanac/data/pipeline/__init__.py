"""`llmanac data build`: from inputs through stages to a corpus on disk, shard by shard, in many processes.

    recipe.py    what a build consists of (TOML -> `BuildSpec`), and what identifies it
    inputs.py    the files of the inputs, and the units of work they are cut into
    records.py   documents on disk between two passes, and the output formats
    chain.py     documents through stages in small batches, each within its time
    limits.py    the time one document may take
    tasks.py     the work of one shard, in whatever process: read, decide, apply, write
    local.py     processes of this machine     ray.py   a Ray cluster     worker.py   one process of the first
    build.py     the passes in order, resuming, and the end
    report.py    what a build kept and dropped, and why: tables and a picture

Every task fills a folder that is renamed when it is complete, and that folder is the mark that the task is done. What a
task writes depends on its inputs alone, so worker counts, order, engines and kills leave the same bytes behind.
"""
