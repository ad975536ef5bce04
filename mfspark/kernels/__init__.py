"""Numerical code on numpy arrays, compiled by numba. It does not import Spark, so it runs anywhere."""
