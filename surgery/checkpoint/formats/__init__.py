"""One module for each format: names to places in files, and nothing else read or run.

``recognise`` tells them by content. ``safetensors``, ``torch_files`` (``zipped`` and the pickles)
and ``shard_set`` read one each, and give :class:`~surgery.checkpoint.holding.Contents`.
"""
