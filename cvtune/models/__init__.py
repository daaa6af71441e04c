"""Backbones from timm, where their weights come from, heads, and the cut into a prefix and a tail.

The switch stands here because every module of the room imports timm, and timm imports huggingface_hub, which reads
it once on import.
"""

import os

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
