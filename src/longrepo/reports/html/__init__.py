"""`report.html`: what a run was trained on, how it went, and what it bought, on one page that needs nothing else."""
