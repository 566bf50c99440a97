"""Pickles without Python's own machine: nothing is imported, nothing is run.

``reading`` turns one into the values of ``inert``, by the tables of ``opcodes`` (what each does
to a ``machine``) and of ``constructors`` (the globals that mean something). ``pickler`` writes
the one that ``torch.load(weights_only=True)`` reads.
"""
