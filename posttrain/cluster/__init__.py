"""The only home of `ray`: the session, actors around plain classes, and the launcher stages see.

May import: all of posttrain but pipeline and cli; ray.
"""
