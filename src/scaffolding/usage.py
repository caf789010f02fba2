"""What --help says."""

from pathlib import Path

import yaml

from .core.config.compose import groups
from .core.session.console import command
from .experiment import PROJECT


def help_text(words: list[str]) -> str:
    """Groups, their options, and the keys of base.yaml with unit and meaning."""
    header, _, keys = (PROJECT.configs / "base.yaml").read_text().partition("\n\n")
    defaults = [entry for entry in yaml.safe_load(header)["defaults"] if isinstance(entry, dict)]
    chosen = {group: option for entry in defaults for group, option in entry.items()}
    own = words[words.index("--config-dir") + 1 :][:1] if "--config-dir" in words else []
    lines = [f"usage: {command()} [GROUP=OPTION ...] [KEY=VALUE ...]", "", "groups, options (* default):"]
    for folder in [PROJECT.configs, *map(Path, own)]:
        for group, options in groups(folder).items():
            marked = ["*" + option if chosen.get(group) == option else option for option in options]
            lines.append(f"  {group:<11} {'  '.join(marked)}")
    return "\n".join(lines) + (
        "\n\nother runs and ways to run:"
        "\n  resume=RUN          carry a run on: its name, first letters, `latest`, or its path"
        "\n  fork=RUN            start a new run from the weights of another"
        "\n  trust=NAME[,NAME]   beside these two: packages that the run may name though config.py does not list them"
        "\n  --multirun KEY=A,B  one run per value"
        "\n  --config-dir DIR    a folder of your own configs; --cfg job prints the composed config"
        f"\n\nkeys of configs/base.yaml:\n\n{keys.rstrip()}"
    )
