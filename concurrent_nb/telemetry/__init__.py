"""What is measured in a cluster, how it is summarised, and the state behind the live feed.

`statistic` and its neighbours summarise values and times; `feed_state` numbers the changes of the cluster's state and
gives snapshots and deltas; `task_stream` packs the marks of tasks that have ended. Pure: no I/O.
"""
