"""What the network is: the TecoGAN family of recurrent video super-resolution networks.

This package stands on the ground: it knows neither :mod:`teco_calibration` nor :mod:`teco`.
:mod:`teco_models.variant` and :mod:`teco_models.zoo` work without torch; every other module
imports it.
"""
