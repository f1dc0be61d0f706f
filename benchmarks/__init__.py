"""What we claim, each claim as a file that measures it: `make bench [NAME=quickstart]`."""
