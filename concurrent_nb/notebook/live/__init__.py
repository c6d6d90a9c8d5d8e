"""The live display of a job in its cell: its content is computed by pure code, and shown by one thread.

    events, notes, counts --> JobViewModel (timeline, error groups, bars, a view) --> parts: small plain data
    parts --> job_page (HTML without scripts) --> JobWidget while the job runs; the page alone when it has ended

`live_display` connects these. All text of tasks is cleaned and shortened in `text`, and escaped in `job_page`.
"""
