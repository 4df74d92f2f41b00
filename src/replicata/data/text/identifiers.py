"""Identifiers of programs, split into their words."""

from __future__ import annotations

import re
from collections.abc import Sequence

ABBREVIATIONS = ("JPEG", "TIFF")


def split_identifier(name: str, abbreviations: Sequence[str] = ABBREVIATIONS) -> list[str]:
    """Words of an identifier, in order and with their case: ``TIFFReadDir2`` is TIFF, Read, Dir, 2.

    A word ends at an underscore, before a capital that follows a small letter or a digit, and before a digit that
    follows something else. A run of capitals is not divided (``XMLFile`` is one word), but for known abbreviations.

    Args:
        name: The identifier.
        abbreviations: Words of capitals that are split off wherever they stand.

    Returns:
        The words; one empty word for a name of underscores only.
    """
    name = re.sub(r"([0-9a-z])([A-Z])", r"\1_\2", name)
    name = re.sub(r"([^0-9])([0-9])", r"\1_\2", name)
    for abbreviation in abbreviations:
        name = name.replace(abbreviation, f"_{abbreviation}_")
    return re.sub(r"_+", "_", name).removeprefix("_").removesuffix("_").split("_")
