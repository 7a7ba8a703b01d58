"""The Celery side: supervisors, attempts and the pruning engine.

No re-exports: importing a part never loads torch by accident.
"""
