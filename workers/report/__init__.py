"""The page a job leaves beside its network: one HTML file that says what was asked, what was reached and how."""
