"""Shares and quantiles of all pairs from a sample of rows, with intervals, where all pairs are out of reach.

`estimator.sampled` draws rows (`draws`), sweeps over their pairs (`counts`), and estimates (`estimates`) with
intervals over rows, never over pairs, since pairs share their endpoints (`intervals`).
"""
