"""Definitions back to YAML.

Public: `yaml_text`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml


def yaml_text(definition: Mapping[str, Any], comment: str = "") -> str:
    """A mapping as a YAML file, with `comment` on its first lines; loads to the same values."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    plain = json.loads(json.dumps(definition))
    return head + yaml.safe_dump(plain, sort_keys=False, default_flow_style=False, allow_unicode=True, width=110)
