"""The desktop trainer: data sets, stacked hourglasses, fitting, evaluation, export to bundles."""
