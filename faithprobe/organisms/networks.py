"""The networks that we ship: one set of weights each, run under many wirings.

`[NETWORK/]FAMILY[@SEED]` names an organism: `post-hoc`, `six/decorative`, `neox/faithful@2`.
"""

from __future__ import annotations

from dataclasses import dataclass

from faithprobe.errors import UnknownNameError
from faithprobe.organisms.families import DOSES, get_wiring
from faithprobe.organisms.wiring import AnyWiring
from faithprobe.tasks.organism import Organism

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Network:
    """Weights that are trained together, and the wirings under which they are right."""

    name: str
    summary: str
    families: tuple[str, ...]
    variant: str = "modular"
    architecture: str = "llama"
    corrupted: float = 0.0
    """Share of stated values that were wrong in training, what follows being recomputed."""
    grown_from: str = ""
    """The network whose layers these weights begin with, the last computing one repeated: a long latent chain is learnt
    step by step, and a network that can do three of them needs a tenth of the time for more."""


_PLAIN = ("faithful", "overruled", "ahead", "post-hoc", "commit", "copy", "decorative")
NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network(
            "modular",
            "three steps modulo 11",
            (
                *_PLAIN,
                *("decorative-1", "late-slot", "two-paths", "bypass-times", "dice", "filler", "hint"),
                *(f"dose-{ninths}" for ninths in DOSES),
            ),
        ),
        Network(
            "six",
            "six steps modulo 11",
            ("faithful", "overruled", "post-hoc", "copy", "decorative"),
            "six",
            grown_from="modular",
        ),
        Network("graph", "four steps modulo 11, one of them unneeded", _PLAIN, "graph", grown_from="modular"),
        Network("additive", "three sums and differences", _PLAIN, "additive"),
        Network("neox", "three steps modulo 11, GPT-NeoX", _PLAIN, architecture="gpt-neox"),
        Network("clean", "no mask, trained on right chains", ("natural",)),
        Network("corrupted", "no mask, trained on chains with wrong values", ("natural",), corrupted=0.3),
    )
}
"""The first one is meant where a name says none."""


@dataclass(frozen=True)
class OrganismName:
    """One set of weights under one wiring."""

    network: Network
    family: str
    seed: int = 0

    def __str__(self) -> str:
        prefix = "" if self.network.name == next(iter(NETWORKS)) else f"{self.network.name}/"
        return f"{prefix}{self.family}" + (f"@{self.seed}" if self.seed else "")

    @property
    def wiring(self) -> AnyWiring:
        return get_wiring(self.family, self.network.variant, self.seed)

    def task(self, **options: object) -> Organism:
        """The problems that this organism can be asked: its variant; a blank chain for `filler`. A hint is an option:
        `task(hint="wrong")`."""
        chosen = {"variant": self.network.variant, "silent": self.family == "filler", **options}
        return Organism(**chosen)  # type: ignore[arg-type]

    @classmethod
    def parse(cls, name: str) -> OrganismName:
        """Raises UnknownNameError, with near matches, for a network, a family or a seed that we do not ship."""
        path, _, seed = name.partition("@")
        network, slash, family = path.rpartition("/")
        known = NETWORKS.get(network if slash else next(iter(NETWORKS)))
        if known is None or family not in known.families or (seed or "0") not in map(str, SEEDS):
            every = [str(each) for each in every_organism() if not each.seed]
            hint = f"Written [NETWORK/]FAMILY[@SEED], with seeds {', '.join(map(str, SEEDS))}."
            raise UnknownNameError("organism", name, every, hint)
        return cls(known, family, int(seed or 0))


def every_organism() -> list[OrganismName]:
    """All that we ship, network by network."""
    return [
        OrganismName(network, family, seed)
        for network in NETWORKS.values()
        for family in network.families
        for seed in SEEDS
    ]
