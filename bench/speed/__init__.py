"""Timings: cases whose answer is proven first, their peers, the limits of the machine, and the pytest-benchmark suites.

`cases` prepares what is timed, on a processor or a GPU; `baselines` are the peers; `timing` interleaves contenders;
`limits` is what the machine can do at most; `comparison` and `growth` make the tables of the study `speed`;
`regressions` compares two benchmark files.
"""
