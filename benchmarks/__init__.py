"""`make bench`: the hot paths of momos against what one would write without it. Nothing is
asserted; see __main__.py.
"""
