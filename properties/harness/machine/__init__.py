"""What the machine does to a run: devices to share, processes that die or hang, disks that refuse.

``running`` notes the example at hand where another process can read it, ``faults`` tells
the machine's errors from a broken law, ``hang`` stops what stands still, ``crash`` reports
a dead worker, ``accelerators`` asks any device the same, ``assignment`` and ``scheduler`` share
them out, ``progress`` shows that a long run lives, ``memory`` keeps it small, ``plugin`` wires
them into pytest.
"""
