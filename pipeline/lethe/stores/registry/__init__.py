"""The models, in MLflow: registered, removed, and looked through for who is gone."""
