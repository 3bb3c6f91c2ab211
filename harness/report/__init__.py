"""What people look at, computed from the store alone: leaderboard, tables, figures, page.

Imports neither torch nor Ray.
"""
