"""Training: one flat loop, what it commits, what it evaluates, what it leaves. Nothing here knows Ray or MLflow."""
