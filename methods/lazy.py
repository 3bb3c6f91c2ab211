"""torch, imported at its first use: to name or check a method must not cost the seconds that importing torch takes.

`list`, `status` and `--dry-run` resolve every method of a suite without computing anything. A plug-in may simply
`import torch`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
else:

    class _LazyTorch:
        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("torch"), name)

    torch = _LazyTorch()

__all__ = ["torch"]
