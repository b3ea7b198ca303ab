"""The audit: what a space is like, beside what random vectors would give.

`statistics` is the table of what is measured; `passes` reads the rows and sweeps over their pairs once; `readings`
reads each statistic off that, `influences` says how much each row moved it; `null` draws random sets; `result` judges;
`suggestions` tries what might help; `audit` and `compare` are what people call.
"""
