"""Trains the byte-level models that ship with the package, on the text that ships with Python.

    python examples/train_presets.py --arch mamba --out mamba --device cuda --minutes 4
    python examples/train_presets.py --arch hybrid --out hybrid --quick    # seconds, on a CPU

A plain transformers checkpoint comes out: config, fp16 weights, a tokenizer whose ids are the bytes,
and `training_log.json`: how the model was trained, and how many bits it needs for a byte of held-out text.
"""

from __future__ import annotations

import datetime
import json
import math
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import preset_corpus
import torch
import torch.nn.functional as F
import transformers
from preset_models import (
    ARCHITECTURES,
    bits_per_byte,
    difference_from_transformers,
    logits_of,
    new_model,
    save_tokenizer,
)
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

console = Console()


@dataclass
class Options:
    """What the command line decides."""

    arch: str
    steps: int
    minutes: float | None
    batch: int
    seq_len: int
    long_seq_len: int
    long_share: float
    lr: float
    seed: int
    device: str
    cuda_graph: bool
    quick: bool
    note: str


def new_optimizer(model: torch.nn.Module, options: Options) -> torch.optim.Optimizer:
    """AdamW; only the matrices decay, and not the one that holds Mamba's A."""
    named = list(model.named_parameters())
    decayed = [p for name, p in named if p.ndim >= 2 and "A_log" not in name]
    others = [p for name, p in named if p.ndim < 2 or "A_log" in name]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    on_gpu = options.device.startswith("cuda")
    lr = torch.tensor(options.lr, device=options.device)
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=on_gpu, capturable=on_gpu)


def learning_rate(options: Options, progress: float) -> float:
    """Warm-up over the first 3% of the training, then a cosine down to a fiftieth."""
    warm = min(1.0, progress / 0.03 + 0.01)
    return options.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Windows:
    """Draws windows of the training text at random places, the same ones for the same seed."""

    def __init__(self, text: bytes, options: Options) -> None:
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(options.device)
        self.random = torch.Generator().manual_seed(options.seed)

    def fill(self, ids: Tensor) -> None:
        """Fills ids [rows, length] with fresh windows."""
        rows, length = ids.shape
        starts = torch.randint(len(self.text) - length, (rows, 1), generator=self.random).to(ids.device)
        ids.copy_(self.text[starts + torch.arange(length, device=ids.device)])


class Step:
    """One optimizer step on windows of one length; on a GPU a captured graph, where launches cost nothing."""

    def __init__(self, model: torch.nn.Module, optimizer, windows: Windows, options: Options, length: int):
        self.model, self.optimizer, self.windows = model, optimizer, windows
        self.logits, self.device = logits_of(options.arch), options.device.split(":")[0]
        rows = max(1, options.batch * options.seq_len // length)
        self.ids = torch.zeros(rows, length + 1, dtype=torch.long, device=options.device)
        self.tokens = rows * length
        self.loss = torch.zeros((), device=options.device)
        self.graph = self.capture() if options.cuda_graph and self.device == "cuda" else None

    def compute(self) -> None:
        """Forward, backward, clip, update."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            logits = self.logits(self.model, self.ids[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), self.ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.loss.copy_(loss.detach())

    def capture(self) -> torch.cuda.CUDAGraph:
        """Three real steps to warm up, then the same work recorded."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.windows.fill(self.ids)
                self.compute()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.compute()
        return graph

    def __call__(self) -> Tensor:
        """Takes one step on fresh windows; the loss in nats per byte."""
        self.windows.fill(self.ids)
        if self.graph is None:
            self.compute()
        else:
            self.graph.replay()
        return self.loss


def progress_steps(options: Options) -> Iterator[float]:
    """The share of the training that is done, before every step: by the clock, or else by the steps."""
    began, step = time.monotonic(), 0
    limit = options.minutes * 60 if options.minutes else None
    while (share := (time.monotonic() - began) / limit if limit else step / options.steps) < 1:
        yield share
        step += 1


def train(model: torch.nn.Module, text: bytes, options: Options) -> dict:
    """Trains `model` in place; what to log about it. The last part of the training sees long windows."""
    windows, optimizer = Windows(text, options), new_optimizer(model, options)
    began, tokens, steps, curve, pending = time.monotonic(), 0, 0, [], []
    step, length, shown = None, 0, 0.0
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(options.arch, total=1.0)
        for share in progress_steps(options):
            for group in optimizer.param_groups:
                group["lr"].fill_(learning_rate(options, share))
            wanted = options.seq_len if share < 1 - options.long_share else options.long_seq_len
            if step is None or length != wanted:
                step, length = None, wanted  # frees the old graph first
                step = Step(model, optimizer, windows, options, length)
            pending.append(step().clone())
            tokens, steps = tokens + step.tokens, steps + 1
            if len(pending) == 20 or options.quick:  # also what keeps the clock and the GPU together
                bits = torch.stack(pending).mean().item() / math.log(2)
                pending.clear()
                bar.update(task, completed=share, description=f"{options.arch} {bits:.3f} bits/byte")
                if share >= shown:
                    shown = share + 0.01
                    curve.append({"step": steps, "tokens": tokens, "bits_per_byte": round(bits, 4)})
                    if not console.is_terminal:
                        console.print(f"{options.arch} {share:.2f} step {steps} {bits:.3f} bits/byte")
    return {"steps": steps, "tokens": tokens, "seconds": round(time.monotonic() - began, 1), "loss": curve}


def evaluate(folder: Path, trained: dict[str, Tensor], text: bytes, options: Options) -> dict:
    """What the saved fp16 checkpoint reaches, computed in float32."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    loaded = model.state_dict()
    changed = [name for name in loaded if not loaded[name].equal(trained[name].float().cpu())]
    if changed:
        raise RuntimeError(f"{folder}: transformers does not load what was saved: {', '.join(changed)}")
    model = model.to(options.device).eval()
    contexts = [64] if options.quick else [256, 1024, 4096, 8192, 16384]
    text = text[:1024] if options.quick else text
    bits = {str(c): round(bits_per_byte(model, options.arch, text, c), 4) for c in contexts}
    difference = difference_from_transformers(model, options.arch, text)
    return {"heldout_bits_per_byte_by_context": bits, "largest_difference_from_transformers": difference}


def hardware(device: str) -> str:
    """The name of what computes."""
    return torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU ({platform.machine()})"


def write_log(folder: Path, *parts: dict) -> None:
    """Puts the parts of the log into one file."""
    log = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    for part in parts:
        log |= part
    (folder / "training_log.json").write_text(json.dumps(log, indent=2) + "\n")


def run(options: Options, corpus: preset_corpus.Corpus, out: Path) -> dict:
    """Trains, saves and evaluates one model."""
    torch.set_float32_matmul_precision("highest")
    model = new_model(options.arch, options.seed).to(options.device)
    parameters = sum(p.numel() for p in model.parameters())
    about = {
        "command": " ".join(["python", "examples/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "options": asdict(options),
        "hardware": hardware(options.device),
        "parameters": parameters,
        "corpus": corpus.summary,
    }
    trained = train(model.train(), corpus.train, options)
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    save_tokenizer(out)
    result = evaluate(out, model.state_dict(), corpus.heldout, options)
    write_log(out, about, result, trained)
    return {"parameters": parameters, "tokens": trained["tokens"], **result}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--arch", type=click.Choice(list(ARCHITECTURES)), required=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="New folder.")
@click.option("--corpus", type=click.Path(path_type=Path), help="A folder that preset_corpus.py wrote.")
@click.option("--steps", default=10000, help="How many steps, unless --minutes is given.")
@click.option("--minutes", type=float, help="Train for this long.")
@click.option("--batch", default=32, help="Windows per step.")
@click.option("--seq-len", default=1024, help="Bytes per window.")
@click.option("--long-seq-len", default=8192, help="Bytes per window at the end of the training.")
@click.option("--long-share", default=0.25, help="The share of the training that sees long windows.")
@click.option("--lr", default=4e-3, help="The highest learning rate.")
@click.option("--seed", default=0)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
@click.option("--cuda-graph/--no-cuda-graph", default=True, help="Capture the step in a CUDA graph.")
@click.option("--quick", is_flag=True, help="Four small steps on a part of the corpus, as a test.")
@click.option("--note", default="", help="Goes into the log.")
def main(out: Path, corpus: Path | None, **chosen) -> None:
    """Train one of the preset models and save it to OUT as a transformers checkpoint."""
    options = Options(**chosen)
    if options.quick:
        options.steps, options.minutes, options.batch = 4, None, 2
        options.seq_len, options.long_seq_len = 64, 128
    text = preset_corpus.load(corpus) if corpus else preset_corpus.gather(20 if options.quick else None)
    if out.exists():
        shutil.rmtree(out)
    console.print(run(options, text, out))


if __name__ == "__main__":
    main()
