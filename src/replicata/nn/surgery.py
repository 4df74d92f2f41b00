"""Replacing modules inside a model."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

Rule = Callable[[str, nn.Module], nn.Module | None]


def replace(model: nn.Module, rule: Rule) -> nn.Module:
    """Replace modules of a model in place.

    A module that stands in several places is replaced everywhere by one and the same. What is put in is not
    searched further, so a rule may wrap a layer in a module that holds it.

    Args:
        model: Any module.
        rule: ``(name, module) -> replacement``, asked from the outside in, in the order of ``named_modules``;
            ``None`` keeps the module and asks about its children.

    Returns:
        The model, or its replacement where the rule replaces the model itself.
    """
    return _visit("", model, rule, {})


def _visit(name: str, module: nn.Module, rule: Rule, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in done:
        return done[module]
    replacement = rule(name, module)
    done[module] = module if replacement is None else replacement
    if replacement is not None:
        return replacement
    for own, child in list(module._modules.items()):
        if child is not None:
            setattr(module, own, _visit(f"{name}.{own}".lstrip("."), child, rule, done))
    return module
