"""The grammar of captions."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replicata.data.text.scene_captions import OPPOSITE, PHRASES, RELATIONS, SIDES, SPECIAL, TEMPLATES, SceneCaptions

COLOURS, NOUNS = ["red", "green", "blue"], ["coat", "bag", "boot", "sandal"]
GRAMMAR = SceneCaptions(COLOURS, NOUNS, ["dress"])
THING = r"(?:a|the) (\w+) (\w+)"
Meaning = tuple[tuple[str, str], tuple[str, str], str]


def parse(text: str) -> Meaning:
    """What a caption of the first four templates says, written from the grammar's description alone."""
    forms = [(rf"(?:there is )?{THING} {phrase} {THING}", at) for phrase, at in zip(PHRASES, RELATIONS, strict=True)]
    shown = rf"the picture shows {THING} with {THING}"
    forms += [(rf"{shown} {side}", at) for side, at in zip(SIDES, RELATIONS, strict=True)]
    for form, relation in forms:
        if found := re.fullmatch(form, text):
            first, second = (found[1], found[2]), (found[3], found[4])
            if "with" in form:
                first, second = second, first
            return first, second, relation
    raise AssertionError(f"not a caption: {text}")


@given(st.tuples(*[st.integers(0, 2)] * 2), st.tuples(*[st.integers(0, 3)] * 2), st.integers(0, 3), st.integers(0, 3))
def test_a_caption_says_what_the_scene_means(
    colours: tuple[int, int], nouns: tuple[int, int], relation: int, template: int
) -> None:
    tokens, lengths = GRAMMAR.render(*map(torch.tensor, ([colours], [nouns], [relation], [[template]])))
    assert int((tokens != 0).sum()) == int(lengths)
    first, second, said = parse(GRAMMAR.words(tokens[0, 0]))
    things = [(COLOURS[colour], NOUNS[noun]) for colour, noun in zip(colours, nouns, strict=True)]
    if template == 1:  # the other way round
        first, second, said = second, first, RELATIONS[OPPOSITE[RELATIONS.index(said)]]
    assert (first, second, said) == (*things, RELATIONS[relation])


def test_the_last_template_leaves_the_relation_out() -> None:
    one = torch.tensor([[0, 1]]).expand(4, 2)
    tokens, _ = GRAMMAR.render(one, one, torch.arange(4), torch.full((4, 1), 4))
    assert {GRAMMAR.words(row[0]) for row in tokens} == {"a red coat and a green bag"}


def test_many_captions_of_a_scene_at_once() -> None:
    one = torch.tensor([[0, 1]])
    tokens, lengths = GRAMMAR.render(one, one, torch.tensor([2]), torch.arange(5)[None])
    assert tokens.shape == (1, 5, GRAMMAR.length)
    assert lengths.tolist() == [[7, 7, 9, 12, 7]]
    assert GRAMMAR.words(tokens[0, 3]) == "the picture shows a green bag with a red coat above it"


def test_the_vocabulary_does_not_depend_on_which_nouns_are_used() -> None:
    other = SceneCaptions(COLOURS, ["dress"], NOUNS)
    assert GRAMMAR.vocabulary == other.vocabulary
    assert GRAMMAR.vocabulary[: len(SPECIAL)] == list(SPECIAL)
    assert len(GRAMMAR) == len(set(GRAMMAR.vocabulary))
    with pytest.raises(ValueError, match="must all be different"):
        SceneCaptions(["red"], ["above"])


def test_prompts_name_all_concepts_in_order() -> None:
    tokens, lengths = GRAMMAR.prompts()
    assert [GRAMMAR.words(row) for row in tokens] == [f"a {colour} {noun}" for colour in COLOURS for noun in NOUNS]
    assert set(lengths.tolist()) == {3}
    assert len(TEMPLATES) == 5
