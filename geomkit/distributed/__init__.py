"""Rows that several processes measure, or that are measured so that a run can be resumed.

`api.distribute` ties rows to an executor (`executors`: this process, or the workers of a Dask cluster) and to a folder
in which partial results are kept (`checkpoint`). Its rows run a pass by cutting it into tasks, as `schedule` says;
`tasks` runs one task anywhere, and `cost` predicts what a run will take.
"""
