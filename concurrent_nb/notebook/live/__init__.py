"""The live view of a job in its cell: what it shows is decided in pure code, and shown by one thread.

    events, notes, counts --> story (lanes, folds, bars, a view) --> parts: small plain data
    parts --> widget (anywidget) while the job runs; snapshot (HTML without scripts) when it has ended

`line` is where they meet. Whatever a task said is cleaned and cut in `text`, and never taken for markup.
"""
