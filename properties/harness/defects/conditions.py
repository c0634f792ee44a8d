"""Conditions of known defects: what an example must have drawn for a defect to show in it.

A condition is words, all of which must hold of one optimizer (or of one group of its
parameters) that the example drew: a class of torch.optim, an implementation, an option.
"""

from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping

from frostproof.strategies import OptimizerScenario, OptimizerSpec, TrainingRun, optimizer_names
from frostproof.strategies.optimizers import CHOICES, has_option

Predicate = Callable[[str, Mapping[str, Any]], bool]

# Implementations: what is asked for by no option is the for-loop, on the CPU.
WORDS: Dict[str, Predicate] = {
    "foreach": lambda name, options: options.get("foreach") is True,
    "fused": lambda name, options: bool(options.get("fused")),
    "for-loop": lambda name, options: not options.get("foreach") and not options.get("fused"),
    # a class without the option
    "not-capturable": lambda name, options: not has_option(name, "capturable", True),
    "weight-decay": lambda name, options: (
        bool(options.get("weight_decay"))
        and not options.get("decoupled_weight_decay")
        and name not in ("AdamW", "SGD", "ASGD", "Muon", "Adafactor")
    ),  # which keep it out of .grad
}


def predicate(word: str) -> Predicate:
    """The predicate of one word; ValueError, saying which there are, for another."""
    if word in WORDS:
        return WORDS[word]
    if word in CHOICES:
        return lambda name, options: bool(options.get(word))
    if word in optimizer_names() or (word[:1].isupper() and word.isidentifier()):
        return lambda name, options: name == word
    known = [*WORDS, *sorted(CHOICES), "a class of torch.optim"]
    raise ValueError(f"condition {word!r}: unknown; use {', '.join(known)}")


def specs(values: Iterable[Any]) -> Iterator[OptimizerSpec]:
    """The optimizers among the values of an example; of a scenario each group's."""
    for value in values:
        if isinstance(value, OptimizerSpec):
            yield value
        elif isinstance(value, TrainingRun):
            yield value.optimizer
        elif isinstance(value, OptimizerScenario):
            yield value.spec
            yield OptimizerSpec(
                value.spec.name, tuple({**dict(value.spec.options), **dict(value.second)}.items())
            )


def holds(condition: str, values: Iterable[Any]) -> bool:
    """Whether an example with these drawn values is one of those in which a defect shows."""
    predicates: List[Predicate] = [predicate(word) for word in condition.split()]
    return any(
        all(each(spec.name, dict(spec.options)) for each in predicates) for spec in specs(values)
    )
