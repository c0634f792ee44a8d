"""A broken law as a message and as a standalone program in plain torch.

``recording`` keeps the failing example. ``replay`` plays it once more while ``instrument`` makes
the law's own functions tell the tape what they do: ``naming`` knows what is known by a name,
``operations`` and ``calls`` what becomes of an operator and of a call, ``facts`` where values come
from, and ``closing`` turns the assertion that failed into the program's last line. ``statements``
cuts out what it needs, and ``text`` prints it.
"""
