"""What the machine does to a run: GPUs to share, processes that die or hang, disks that refuse.

``running`` notes the example at hand where another process can read it, ``faults`` tells
the machine's errors from a broken law, ``hang`` stops what stands still, ``crash`` reports
a dead worker, ``gpus`` and ``scheduler`` share out the GPUs, ``progress`` shows that a long
run lives, ``memory`` keeps it small, ``plugin`` wires them into pytest.
"""
