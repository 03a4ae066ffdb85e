"""The story that the README tells: real images, a shift, a model that recovers."""
