"""Tables for documents, made from the catalogue and from results, so that no number is typed twice."""
