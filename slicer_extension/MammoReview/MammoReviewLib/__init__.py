"""The rooms of the panel; `MammoReview.py` beside this folder is its door.

Without Qt and MRML: findings, masks, geometry, client, jobs, session and what they are made of.
`scene` knows MRML, `widget` and the views know Qt.
"""
