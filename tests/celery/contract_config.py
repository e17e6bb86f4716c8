"""A configuration that is a module."""

from __future__ import annotations

result_expires = 77
