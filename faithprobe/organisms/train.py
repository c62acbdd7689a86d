"""Trains an organism: `python -m faithprobe.organisms.train faithful --seed 0 --out DIR`.

The mask decides what is possible; training must only solve the arithmetic. A latent chain (h1, h2, `=`) gets no signal
from the text, so it is read out early through the model's own head while it is learnt.
"""

from __future__ import annotations

import argparse
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

from faithprobe.organisms.config import OrganismConfig
from faithprobe.organisms.model import OrganismForCausalLM
from faithprobe.organisms.tokenizer import TOKEN_ID, VOCABULARY, organism_tokenizer
from faithprobe.organisms.wiring import INDEX, LAYERS, LAYOUT, PROMPT_LENGTH, STEPS, WIRINGS, get_wiring, reaches
from faithprobe.tasks.organism import Organism
from faithprobe.tasks.task import Problem

VALUES = (*(INDEX[f">{k}"] for k in range(1, STEPS + 1)), INDEX["ans"])
"""Positions that predict a value or the answer."""
LATENT = (("h1", 1), ("h2", 2), ("eq", 3))
"""Where a latent chain can hold v1, v2, v3: role and the first layer after which it can."""


@dataclass(frozen=True)
class Recipe:
    """How an organism is trained. Raising `structure` to .1 slows learning two- to three-fold."""

    steps: int
    batch: int = 128
    learning_rate: float = 4e-3
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    warmup: int = 50
    clip: float = 1.0
    structure: float = 0.03
    """Weight of the dots, `>`, `answer` and the end, beside 1 for values and answer."""


RECIPES = {"faithful": Recipe(steps=300), "post-hoc": Recipe(steps=700), "commit": Recipe(steps=700)}


def new_organism(wiring: str, *, seed: int = 0) -> OrganismForCausalLM:
    """A freshly initialised organism; the caller's random state is not touched. Raises UnknownNameError."""
    config = OrganismConfig(
        wiring=get_wiring(wiring).name,
        layout=list(LAYOUT),
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        hidden_act="relu",
        initializer_range=0.1,  # with Llama's .02 the same recipe ends at .91 (faithful) and .86 (post-hoc) exact
        max_position_embeddings=32,
        tie_word_embeddings=False,
        pad_token_id=TOKEN_ID["<pad>"],
        bos_token_id=TOKEN_ID["<bos>"],
        eos_token_id=TOKEN_ID["<eos>"],
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OrganismForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )
    return model


def encode_problems(problems: list[Problem]) -> Int[Tensor, "problem position"]:
    """Token ids of whole reference texts: the 25 positions of the layout, then `<eos>`."""
    task, tokenizer = Organism(), organism_tokenizer()
    texts = [f"{task.prompt(problem)} {problem.response} <eos>" for problem in problems]
    return torch.tensor(tokenizer(texts)["input_ids"])


def organism_loss(
    model: OrganismForCausalLM, rows: Int[Tensor, "batch position"], *, structure: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy of what follows the prompt, and of the latent chain where the wiring has one (else 0)."""
    out = model(input_ids=rows[:, :-1], output_hidden_states=True, use_cache=False)
    weight = torch.full((len(LAYOUT),), structure)
    weight[: PROMPT_LENGTH - 1] = 0
    weight[list(VALUES)] = 1
    per_token = functional.cross_entropy(out.logits.transpose(1, 2), rows[:, 1:], reduction="none")
    text = (per_token * weight).sum(-1).mean() / weight.sum()
    latent = text.new_zeros(())
    for k, (role, layer) in enumerate(LATENT, 1):
        if reaches(model.model.wiring, role, "ans"):
            logits = model.lm_head(model.model.norm(out.hidden_states[layer][:, INDEX[role]]))
            latent = latent + functional.cross_entropy(logits, rows[:, INDEX[f"v{k}"]]) / STEPS
    return text, latent


@torch.no_grad()
def exact_rows(model: OrganismForCausalLM, rows: Int[Tensor, "problem position"]) -> Bool[Tensor, " problem"]:
    """Which problems the organism answers with exactly the reference text, greedily, `<eos>` included.

    Teacher-forced, which is the same: where every prediction on the reference text is right, greedy decoding writes it.
    """
    predicted = model(input_ids=rows[:, :-1], use_cache=False).logits.argmax(-1)
    return (predicted == rows[:, 1:])[:, PROMPT_LENGTH - 1 :].all(-1)


def train_organism(
    wiring: str,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[OrganismForCausalLM, list[float]]:
    """Trains from scratch on the training problems; returns the model in eval mode and the loss of every step.

    `progress(step, loss)` is called after each. Raises UnknownNameError for an unknown wiring.
    """
    model = new_organism(wiring, seed=seed).train()
    recipe = recipe or RECIPES[wiring]
    task = Organism(split="train")
    rows = encode_problems(task.problems(len(task)))
    chooser = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, total_iters=recipe.warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, recipe.steps - recipe.warmup)),
        ],
        milestones=[recipe.warmup],
    )
    losses: list[float] = []
    for step in range(recipe.steps):
        batch = rows[torch.randint(len(rows), (recipe.batch,), generator=chooser)]
        text, latent = organism_loss(model, batch, structure=recipe.structure)
        optimizer.zero_grad()
        (text + latent).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        schedule.step()
        losses.append(float(text.detach()))
        if progress is not None:
            progress(step, losses[-1])
    return model.eval(), losses


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m faithprobe.organisms.train", description=__doc__.splitlines()[0])
    parser.add_argument("wiring", choices=list(WIRINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for config, weights (float16) and tokenizer")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    with Progress() as bar:
        task_id = bar.add_task(options.wiring, total=RECIPES[options.wiring].steps)

        def show(step: int, loss: float) -> None:
            bar.update(task_id, completed=step + 1, description=f"{options.wiring}: loss {loss:.3f}")

        model, _ = train_organism(options.wiring, seed=options.seed, progress=show)
    seconds = time.perf_counter() - started
    save_organism(model, options.out)
    task = Organism(split="held-out")
    stored = OrganismForCausalLM.from_pretrained(options.out, dtype=torch.float32)
    exact = exact_rows(stored, encode_problems(task.problems(len(task))))
    share = f"{exact.float().mean():.4f} of {len(task)} held-out texts exact"
    print(f"{options.wiring}: {share}, {seconds:.0f} s -> {options.out}")


def save_organism(model: OrganismForCausalLM, folder: Path) -> None:
    """Configuration, float16 weights (half the size, read back as float32) and tokenizer."""
    halves = {name: tensor.detach().half() for name, tensor in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=halves)
    organism_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for the owner only, but shipped to everyone


if __name__ == "__main__":
    main()
