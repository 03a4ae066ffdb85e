"""Tests of the Helm chart, and of deploy/."""
