"""What the bench says of pictures: quality on a clip, the temporal gate, distance from float32."""
