"""What options of a training are called elsewhere, for a message that tells what they are here."""

from __future__ import annotations

DECAY = "optimiser='adamw(weight_decay=0.05)'"
# By the name elsewhere: an option of ``fit``, or one with its value.
OURS = {
    "accelerator": "device",
    "amp": "precision='bf16'",
    "batchsize": "batch_size",
    "betas": "beta1 and beta2",
    "callback": "callbacks",
    "clip_grad": "clip_norm",
    "clip_grad_norm": "clip_norm",
    "clip_gradients": "clip_norm",
    "clipnorm": "clip_norm",
    "early_stopping": "patience",
    "early_stopping_patience": "patience",
    "enable_progress_bar": "progress",
    "grad_clip": "clip_norm",
    "gradient_clip": "clip_norm",
    "gradient_clip_val": "clip_norm",
    "gradient_clipping": "clip_norm",
    "iterations": "steps",
    "lr": "learning_rate",
    "lr_decay": "schedule",
    "lr_schedule": "schedule",
    "lr_scheduler": "schedule",
    "max_epochs": "epochs",
    "max_grad_norm": "clip_norm",
    "max_iter": "steps",
    "max_steps": "steps",
    "max_time": "max_minutes",
    "mixed_precision": "precision='bf16'",
    "momentum": "optimiser='sgd(momentum=0.9)'",
    "n_epochs": "epochs",
    "n_steps": "steps",
    "num_epochs": "epochs",
    "num_iterations": "steps",
    "num_steps": "steps",
    "num_warmup_steps": "warmup",
    "optim": "optimiser",
    "optimizer": "optimiser",
    "random_state": "seed",
    "scheduler": "schedule",
    "verbose": "progress",
    "warmup_steps": "warmup",
    "wd": DECAY,
    "weight_decay": DECAY,
}


def ours(name: str) -> str:
    """What an option of another library is called here; empty if nothing is known of it.

    Args:
        name: As a user gives it, in Python or as a flag.
    """
    return OURS.get(name.lstrip("-").replace("-", "_").lower(), "")


def as_flag(option: str) -> str:
    """An option of :func:`ours` as the command line takes it."""
    words = []
    for word in option.split(" and "):
        name, _, value = word.partition("=")
        words.append(" ".join(filter(None, (f"--{name.replace('_', '-')}", value))))
    return " and ".join(words)
