"""What a model is measured with: clips, degradations and quality metrics. No network code.

This package stands on the ground: it knows neither :mod:`teco_models` nor :mod:`teco`.
"""
