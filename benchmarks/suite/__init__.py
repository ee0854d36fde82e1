"""The evidence: scenarios, tuning with equal budgets, rows, figures and the page made of them."""
