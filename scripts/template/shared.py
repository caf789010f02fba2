"""What the programs here share: the head of a table."""

import os
import platform
import subprocess
import time

import torch

from scaffolding.experiment import PROJECT


def table_head() -> str:
    """Date, commit and machine, and the first lines of a table."""
    commit = subprocess.getoutput(f"git -C '{PROJECT.root}' describe --always --dirty")
    machine = f"{platform.machine()}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f})"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    head = f"{time.strftime('%Y-%m-%d')}, commit {commit}, {machine}, {versions}"
    return f"{head}\n\n| what | measured | figure to reach | |\n| --- | --- | --- | --- |"
