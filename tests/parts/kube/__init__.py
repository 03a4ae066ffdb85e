"""Helm, its checkers, and a real Kubernetes control plane, built by Go and kept between runs."""
