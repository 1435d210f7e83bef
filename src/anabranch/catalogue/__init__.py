"""What weights exist, what their publishers claim of them, and what every zoo calls them.

People write the TOML files, one per publisher; `python -m anabranch.catalogue` reads them strictly and writes
`index.json`, which is all that the program reads: a look-up costs no TOML and no pydantic.
"""
