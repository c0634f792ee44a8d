"""A broken law as a message and as a standalone program in plain torch.

``recording`` keeps the failing example, ``laws`` holds a template for each law, ``script``
is the program under construction, ``registry`` runs and shortens it, ``report`` shows it.
"""
