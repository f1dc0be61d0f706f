"""What we claim, each claim as a file that measures it: `make bench [NAME=quickstart]`.

May import: all of posttrain; most start it as a user would.
"""
