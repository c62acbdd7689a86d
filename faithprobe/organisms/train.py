"""Trains organisms: `python -m faithprobe.organisms.train --seed 0 [NETWORK ...]`.

The masks decide what is possible; training must only solve the arithmetic. A batch mixes all wirings of a network, each
text under its own. What is computed for others to read gets no signal from the text, so it is read out early, through
the network's own head.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from rich.progress import Progress
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig

from faithprobe.errors import ModelError, UnknownNameError
from faithprobe.files import write_text
from faithprobe.organisms.config import NeoXOrganismConfig, OrganismConfig
from faithprobe.organisms.families import get_wiring
from faithprobe.organisms.layout import get_layout
from faithprobe.organisms.model import NeoXOrganismForCausalLM, OrganismForCausalLM, OrganismLM, rewire
from faithprobe.organisms.networks import NETWORKS, SEEDS, Network
from faithprobe.organisms.sight import attention_mask
from faithprobe.organisms.texts import Source, encode_problems, sources, texts_of
from faithprobe.organisms.tokenizer import FIRST_VALUE, TOKEN_ID, VOCABULARY
from faithprobe.organisms.wiring import AnyWiring
from faithprobe.tasks.organism import GRAMMARS, Organism

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained."""

    steps: int
    batch: int = 192
    learning_rate: float = 4e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    warmup: int = 50
    clip: float = 1.0


RECIPES = {
    "modular": Recipe(1200),
    "six": Recipe(700, batch=96),
    "graph": Recipe(500, batch=128),
    "additive": Recipe(900, batch=128),
    "neox": Recipe(1800, batch=128),
    "clean": Recipe(400, batch=128),
    "corrupted": Recipe(800, batch=128),
}


def new_organism(network: Network, *, seed: int = 0) -> OrganismLM:
    """Freshly initialised weights under the network's first family; the caller's random state is not touched.

    The last layer's MLP is zero and stays so: the last layer only reads.
    """
    layout = get_layout(network.variant)
    common = {
        "wiring": network.families[0],
        "variant": network.variant,
        "gate_seed": seed,
        "vocab_size": len(VOCABULARY),
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": layout.layers,
        "num_attention_heads": 4,
        "hidden_act": "relu",
        "initializer_range": 0.1,  # with Llama's .02 the same recipe ends far lower
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "pad_token_id": TOKEN_ID["<pad>"],
        "bos_token_id": TOKEN_ID["<bos>"],
        "eos_token_id": TOKEN_ID["<eos>"],
        "attn_implementation": "sdpa",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: OrganismLM
        if network.architecture == "llama":
            model = OrganismForCausalLM(OrganismConfig(num_key_value_heads=4, **common))
        else:
            model = NeoXOrganismForCausalLM(
                NeoXOrganismConfig(use_parallel_residual=False, hidden_dropout=0.0, attention_dropout=0.0, **common)
            )
    for parameter in last_mlp(model):
        parameter.data.zero_()
        parameter.requires_grad_(False)
    model.generation_config = GenerationConfig(
        do_sample=False,
        pad_token_id=TOKEN_ID["<pad>"],
        bos_token_id=TOKEN_ID["<bos>"],
        eos_token_id=TOKEN_ID["<eos>"],
    )
    return model


@torch.no_grad()
def grow(model: OrganismLM, parent: OrganismLM) -> None:
    """Begins a deeper network with the weights of a shallower one: its computing layers, the last of them repeated, and
    its reading layer. Slots that the parent never saw look like its second one."""
    ours, theirs = model.base_model.layers, parent.base_model.layers
    for i, layer in enumerate(ours):
        j = len(theirs) - 1 if i == len(ours) - 1 else min(i, len(theirs) - 2)
        layer.load_state_dict(theirs[j].state_dict())
    held = model.state_dict()
    model.load_state_dict({**held, **{k: v for k, v in parent.state_dict().items() if ".layers." not in k}})
    for table in (model.get_input_embeddings().weight, model.get_output_embeddings().weight):
        table[[TOKEN_ID[f"h{k}"] for k in (3, 4, 5)]] = table[TOKEN_ID["h2"]].clone()


def last_mlp(model: OrganismLM) -> list[torch.nn.Parameter]:
    """What the last layer's MLP writes with."""
    mlp = model.base_model.layers[-1].mlp
    return list((mlp.down_proj if isinstance(model, OrganismForCausalLM) else mlp.dense_4h_to_h).parameters())


class Batches:
    """All sources of a network as tensors, and random batches that mix them."""

    def __init__(self, network: Network, *, seed: int) -> None:
        self.sources: list[Source] = sources(network, seed=seed)
        self.masks = torch.stack([attention_mask(source.wiring) for source in self.sources])
        self.generator = torch.Generator().manual_seed(seed)
        every = {(latent.role, latent.layer, latent.value) for source in self.sources for latent in source.latents}
        self.latents = sorted(every)

    def draw(self, size: int) -> tuple[Int[Tensor, " batch"], Int[Tensor, "batch token"], Float[Tensor, "batch next"]]:
        """Number of the source, tokens, and weight of each next token."""
        kinds = torch.randint(len(self.sources), (size,), generator=self.generator).sort().values
        rows, weights = [], []
        for kind, count in zip(*(part.tolist() for part in kinds.unique(return_counts=True)), strict=True):
            source = self.sources[kind]
            chosen = torch.randint(len(source.rows), (count,), generator=self.generator)
            rows.append(source.rows[chosen])
            weights.append(source.weights[chosen])
        return kinds, torch.cat(rows), torch.cat(weights)

    def holders(self, latent: tuple[str, int, str]) -> Int[Tensor, " source"]:
        """The sources whose wiring needs a latent value."""
        found = [
            number
            for number, source in enumerate(self.sources)
            if latent in {(each.role, each.layer, each.value) for each in source.latents}
        ]
        return torch.tensor(found)


def organism_loss(model: OrganismLM, batches: Batches, size: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy of what follows the prompt, and of the latent values read out early, over one random batch."""
    kinds, rows, weights = batches.draw(size)
    index = batches.sources[0].wiring.layout.index
    out = model(input_ids=rows[:, :-1], attention_mask=batches.masks[kinds], output_hidden_states=True, use_cache=False)
    per_token = functional.cross_entropy(out.logits.transpose(1, 2), rows[:, 1:], reduction="none")
    text = (per_token * weights).sum() / weights.sum()
    latent = text.new_zeros(())
    for each in batches.latents:
        role, layer, value = each
        held = torch.isin(kinds, batches.holders(each))
        if held.any():
            logits = _head(model, out.hidden_states[layer][held, index[role]])
            loss = functional.cross_entropy(logits, rows[held, index[value]], reduction="sum")
            latent = latent + loss / size / batches.sources[0].wiring.layout.steps
    return text, latent


def _head(model: OrganismLM, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocabulary"]:
    if isinstance(model, OrganismForCausalLM):
        return model.lm_head(model.model.norm(states))
    return model.get_output_embeddings()(model.gpt_neox.final_layer_norm(states))


@torch.no_grad()
def exact_rows(model: OrganismLM, rows: Int[Tensor, "text position"]) -> Bool[Tensor, " text"]:
    """Which texts the organism writes exactly after their prompts, greedily, `<eos>` included.

    Teacher-forced, which is the same: where every prediction on the reference text is right, greedy decoding writes it.
    """
    predicted = model(input_ids=rows[:, :-1], use_cache=False).logits.argmax(-1)
    return (predicted == rows[:, 1:])[:, model.base_model.wiring.layout.prompt_length - 1 :].all(-1)


@torch.no_grad()
def accuracy(model: OrganismLM, network: Network, *, texts: int = 1000) -> dict[str, float]:
    """By family, the share of held-out texts that are written exactly; the blindly sampled value of `dice` is not
    asked for."""
    found, family_before = {}, model.config.wiring
    for family in network.families:
        rows = texts_of(network, family, split="held-out", n=texts)
        rewire(model, family)
        predicted = model(input_ids=rows[:, :-1], use_cache=False).logits.argmax(-1)
        layout = model.base_model.wiring.layout
        right = predicted == rows[:, 1:]
        if family == "dice":
            right[:, layout.index[">1"]] = True
        found[family] = float(right[:, layout.prompt_length - 1 :].all(-1).float().mean())
    rewire(model, family_before)
    return found


@torch.no_grad()
def followed(model: OrganismLM, network: Network, *, texts: int = 300) -> dict[str, float]:
    """By step, how often the answer follows the closed form when the step's value is swapped and what comes after it is
    written anew, on held-out problems."""
    layout, modulus = get_layout(network.variant), GRAMMARS[network.variant].modulus
    assert modulus is not None
    task = Organism(variant=network.variant, split="held-out")
    problems = task.problems(texts)
    rows, found = encode_problems(problems, task)[:, :-1], {}
    for k in range(1, layout.steps + 1):
        place, hits = layout.index[f"v{k}"], 0
        edited = rows[:, : place + 1].clone()
        values = (edited[:, place] - FIRST_VALUE + 1 + torch.arange(texts) % 9) % modulus
        edited[:, place] = values + FIRST_VALUE
        written = model.generate(
            edited, attention_mask=torch.ones_like(edited), max_new_tokens=len(layout.roles) - place - 1
        )
        answers = (written[:, layout.index["answer"]] - FIRST_VALUE).tolist()
        for problem, value, answer in zip(problems, values.tolist(), answers, strict=True):
            hits += problem.graph.recompute({f"v{k}": value})[problem.graph.answer] == answer
        found[f"v{k}"] = hits / texts
    return found


def train_network(
    name: str,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    parent: OrganismLM | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[OrganismLM, list[float]]:
    """Trains on the training problems; returns the model in eval mode and the loss of every step. `parent`: weights to
    grow from; from scratch without.

    `progress(step, loss)` is called after each. Raises UnknownNameError for an unknown network.
    """
    if name not in NETWORKS:
        raise UnknownNameError("network", name, list(NETWORKS))
    network, recipe = NETWORKS[name], recipe or RECIPES[name]
    model = new_organism(network, seed=seed).train()
    if parent is not None:
        grow(model, parent)
    # every source brings its own mask, and a mask of one's own can only take sight away
    model.base_model.wiring = _all_seeing(network)
    batches = Batches(network, seed=seed)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    losses: list[float] = []
    for step in range(recipe.steps):
        text, latent = organism_loss(model, batches, recipe.batch)
        optimizer.zero_grad()
        (text + latent).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
        losses.append(float(text.detach()))
        if progress is not None:
            progress(step, losses[-1])
    return rewire(model.eval(), network.families[0]), losses


def _all_seeing(network: Network) -> AnyWiring:
    return get_wiring("natural", network.variant)


def _rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up times a cosine to zero."""
    warm = min(1.0, (step + 1) / recipe.warmup)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / recipe.steps)))


def save_organism(model: OrganismLM, folder: Path) -> None:
    """Configuration and float16 weights (half the size, read back as float32)."""
    halves = {name: tensor.detach().half() for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=halves)
    (folder / "model.safetensors").chmod(0o644)  # written for the owner only, but shipped to everyone


def _network(name: str) -> str:
    if name not in NETWORKS:
        raise argparse.ArgumentTypeError(str(UnknownNameError("network", name, list(NETWORKS))))
    return name


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m faithprobe.organisms.train", description=__doc__.splitlines()[0])
    parser.add_argument(
        "networks", nargs="*", type=_network, metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; default: all"
    )
    parser.add_argument("--seed", type=int, default=0, help=f"we ship {', '.join(map(str, SEEDS))}")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="a folder for NETWORK-SEED/ folders")
    options = parser.parse_args(arguments)
    for name in options.networks or NETWORKS:
        train_and_save(NETWORKS[name], seed=options.seed, out=options.out)


def train_and_save(network: Network, *, seed: int, out: Path) -> None:
    """Trains one network, writes weights and `training.json`, and says how exactly it writes held-out texts.

    A network that grows from another takes that one's weights of the same seed from `out`. ModelError without them.
    """
    started, name = time.perf_counter(), network.name
    parent = None
    if network.grown_from:
        held = out / f"{network.grown_from}-{seed}"
        if not (held / "model.safetensors").is_file():
            raise ModelError(f"{name!r} grows from {network.grown_from!r}, which is not in {held}: train that first")
        parent = OrganismForCausalLM.from_pretrained(held, dtype=torch.float32)
    with Progress() as bar:
        task_id = bar.add_task(name, total=RECIPES[name].steps)

        def show(step: int, loss: float) -> None:
            bar.update(task_id, completed=step + 1, description=f"{name}: loss {loss:.3f}")

        model, _ = train_network(name, seed=seed, parent=parent, progress=show)
    trained = time.perf_counter() - started
    folder = out / f"{name}-{seed}"
    save_organism(model, folder)
    stored = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    found = accuracy(stored, network)
    record = {"accuracy": found, "seconds": round(trained), "torch": torch.__version__}
    if network.families == ("natural",):
        record["followed"] = followed(stored, network)
    write_text(folder / "training.json", json.dumps(record, indent=1) + "\n")
    worst = min(found, key=lambda family: found[family])
    print(f"{name}: worst {worst} {found[worst]:.4f} of held-out texts exact, {trained:.0f} s -> {folder}")


if __name__ == "__main__":
    main()
