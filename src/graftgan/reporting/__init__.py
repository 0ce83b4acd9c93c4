"""The one-file HTML report, its plots and contact sheets."""
