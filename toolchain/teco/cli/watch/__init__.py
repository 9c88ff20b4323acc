"""Commands for people with a clip: upscale, play, serve, emit."""
