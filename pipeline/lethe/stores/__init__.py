"""Everything that keeps personal data or proof about it.

The only importers of SQLAlchemy, dvc and mlflow.
"""
