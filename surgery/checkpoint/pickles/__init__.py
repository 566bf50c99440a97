"""Pickles without Python's own machine: nothing is imported, nothing is run.

``machine`` reads one (with ``cursor``, ``opcodes`` and ``constructors``) into the values of
``inert``; ``pickler`` writes the one that ``torch.load(weights_only=True)`` reads.
"""
