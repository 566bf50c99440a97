"""A run: schedule, stages, and how it goes on after an interruption or a change of course.

Every module imports torch; this package alone does not. The public names are in :mod:`surgery`.
"""
