"""Experiments: a matrix of runs from a file, their results, and what they show.

docs/experiments.md describes files, folders and commands.
"""
