"""Which embedder and which head an expert is, and the experts behind one embedder together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qmoe_core.embedders import Embedder, models
from qmoe_core.errors import ConfigError
from qmoe_core.training.crossval import FoldResult, Subject


@dataclass(frozen=True)
class ExpertPath:
    """An expert by its name, with its embedder (see `embedders.create`) and its head's format."""

    name: str
    embedder: str
    head: str


def resolve(embedders: Sequence[str], experts: Iterable[str], *, every: bool = True) -> list[ExpertPath]:
    """The embedder and head of each expert.

    Args:
        embedders: as asked for. Of `ds-cnn` and `mn04` an expert may name the format, before a +; one with a
            format of its own, `ds-cnn:q8`, keeps it.
        experts: names (see `experts.spec`). An expert of the first embedder needs no embedder before a dot.
        every: a name without an embedder stands for an expert behind each of them, not only the first.

    Raises:
        ConfigError: an expert of another embedder, or a format for one that has none.

    >>> [(path.name, path.embedder) for path in resolve(["ds-cnn"], ["q4+q4", "fp32+q4"])]
    [('q4+q4', 'ds-cnn:q4'), ('fp32+q4', 'ds-cnn')]
    >>> [(path.name, path.embedder) for path in resolve(["logmel-stats", "ds-cnn:q8"], ["q1"])]
    [('q1', 'logmel-stats'), ('ds-cnn:q8.q1', 'ds-cnn:q8')]
    """
    bases = [name.partition("@")[0].lower() for name in embedders]
    found: dict[str, ExpertPath] = {}
    for expert in experts:
        asked, _, own = expert.rpartition(".")
        chosen = [asked] if asked else bases if every else bases[:1]
        for base in chosen:
            if base not in bases:
                raise ConfigError(f"{expert}: there is no embedder {base} here; there are {', '.join(bases)}")
            name = own if base == bases[0] else f"{base}.{own}"
            found[name] = _path(name, embedders[bases.index(base)], own)
    return list(found.values())


def _path(name: str, embedder: str, own: str) -> ExpertPath:
    given, _, head = own.rpartition("+")
    if given and embedder not in models.ARCHITECTURES:
        raise ConfigError(
            f"{name}: {embedder} has no format to choose; accepted is {head}, or one of "
            f"{', '.join(models.ARCHITECTURES)} for the embedder"
        )
    return ExpertPath(name, embedder if given in ("", "fp32") else f"{embedder}:{given}", head)


@dataclass(frozen=True)
class EmbedderPart:
    """The experts behind one embedder.

    Attributes:
        subject: the dataset embedded by it; heads: the format of each, by the expert's name.
        results: of these heads and of those that they are made from, on every fold; `expert` is the head.
    """

    embedder: Embedder
    subject: Subject
    heads: dict[str, str]
    results: list[FoldResult]

    @property
    def named(self) -> list[FoldResult]:
        """Results of the experts, by their names."""
        return [
            replace(result, expert=name)
            for name, head in self.heads.items()
            for result in self.results
            if result.expert == head
        ]
