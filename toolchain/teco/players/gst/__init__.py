"""The GStreamer element: ``element.py`` is GStreamer's side, the other files know nothing of it.

Nothing here is imported by teco itself; the plugin that ``teco emit gstreamer`` writes does.
"""
