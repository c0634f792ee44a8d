"""A broken law as a message and as a standalone program in plain torch.

``recording`` keeps the failing example. ``replay`` plays it once more while ``instrument`` makes
the law's own functions tell the ``tape`` what they do: ``naming`` knows what is known by a name,
``calls`` what becomes of a call, ``facts`` where values come from. ``closing`` turns the assertion
that failed into the program's last line, ``statements`` cuts out and prints what it needs, and
``report`` shows it.
"""
