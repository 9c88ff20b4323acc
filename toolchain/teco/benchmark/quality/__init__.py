"""What the bench measures of frames: quality on a clip, temporal gate, distance from float32."""
