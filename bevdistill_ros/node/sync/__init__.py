"""Sets of images, one per camera, from single messages."""
