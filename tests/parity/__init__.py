"""The publishers' own code against ours: every net of the table in `models.py`, at two sizes, there and back again."""
