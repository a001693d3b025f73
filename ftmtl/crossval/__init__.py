"""The paper's experiment: models cross-validated on the same folds, and a report of it.

The rooms in order: `folds` (who is tested when), `run` (train and predict every fold, resumable),
`published` (the paper's own numbers), `outcome` (the figures), `figures` and `cases` (the
pictures), `report` (the page).
"""
