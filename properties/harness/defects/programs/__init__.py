"""The known defects of what people train with, one program each, in plain torch.

Each ends with 1 and a sentence where the defect shows, with 0 where it does not, and by a
traceback where this torch lacks what it needs. Those of two processes end within minutes.
"""
