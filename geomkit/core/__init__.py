"""What every room stands on: checked matrices, rows in files, devices, threads, memory, caches, atomic writes.

Start with `matrix`: whatever a user passes becomes a `Matrix` there, or is refused with a message that says why;
`validation` checks all other arguments. Rows that lie in files or on other machines are a row source (`row_source`),
which a `Matrix` holds in place of an array; `executor` is the protocol of whoever works on such rows. `blocks` passes
over rows block by block. `devices`, `threads` and `memory` decide where work runs and how much it may hold. `cache`
keeps what took minutes to make, `atomic` writes a file as a whole or not at all, `progress` tells callers how far a
measurement is, and `result` is the base of what measurements return.
"""
