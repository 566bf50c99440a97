"""Pickles without Python's own machine: nothing is imported, nothing is run.

``reading`` turns one into the values of ``inert``: ``machine`` has what each opcode does,
``constructors`` the globals that mean something. ``pickler`` writes the one that
``torch.load(weights_only=True)`` reads.
"""
