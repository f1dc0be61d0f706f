"""The only home of `ray`: the session, actors around plain classes, and the launcher stages see."""
