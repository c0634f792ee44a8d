"""Eager torch as a small model in plain Python: storages, views, version counters and a tape.

Programs run against it unchanged: ``namespace.TORCH`` stands where torch would. Every element
of a storage has a value, and in each history that it belongs to a node of a scalar tape, so
that views, in-place writes and detached aliases need no rules of their own for gradients.
What the model does not describe raises ``NotModelled``.
"""
