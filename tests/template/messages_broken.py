"""A module that cannot be imported, for scripts/template/messages.py."""

import nosuch_library  # noqa: F401
