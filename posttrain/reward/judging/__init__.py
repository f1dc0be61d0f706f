"""A model that judges answers, behind any endpoint that speaks OpenAI's chat protocol.

`settings` what a judge is; `wording` what it is asked; `form` what it has to fill in, and how that
is read; `cache` what it has said before; `client` asks it.
"""
