"""Networks by name or live: found, built without values, described, remembered.

What imports no torch: ``architectures`` finds what a name means, by the ``origins`` (one file
each); ``blueprints`` gives an architecture's names, shapes and heads (``unfilled``), from what is
``remembered`` where that is enough; ``identification`` and ``survey`` say which architecture a
file is. What does: ``building``, ``deferred`` (initial values that nobody reads are never made),
``describe`` (the same of a live model), ``inputs``, ``running_order``, ``outlining``.
"""
