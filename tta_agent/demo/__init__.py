"""The demo of the README: real images, a shift, and a model that recovers."""
