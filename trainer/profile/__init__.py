"""What a recipe's network costs, before it is trained: counted, timed here, and estimated for small devices.

The entries are :func:`trainer.profile.report.profile` and :func:`trainer.profile.report.show`.
"""
