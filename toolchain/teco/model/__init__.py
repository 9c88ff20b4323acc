"""What a model file is: stream contract, manifest, and opening what a user names."""
