"""Rows that several processes measure, or that are measured so that a run can be resumed.

`api.at_scale` ties rows to an executor (`executors`: this process, or the workers of a Dask cluster) and to a folder
in which partial results are kept (`checkpoint`). `schedule` cuts a measurement into tasks, `tasks` does one of them
anywhere, and `cost` says beforehand what a run will take.
"""
