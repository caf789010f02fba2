"""Broken configs, and what train.py says of them: to be read as prose, and the text that a test compares.

python scripts/template/messages.py                                   # prints all messages, two minutes
python scripts/template/messages.py > tests/template/messages.txt     # ... which then are the right ones
python scripts/template/messages.py monitor                           # only of cases that hold this text
"""

import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from conftest import run_train

# A folder of configs that each case adds to those of the project. `experiment/bad.yaml` is what a case is about.
FILES = {
    "data/unread.yaml": """\
dataset:
  _target_: messages_parts.Unread
  num_items: 20
num_features: 8
num_classes: 3
""",
    "model/picky.yaml": """\
# @package _global_
model:
  _target_: messages_parts.Picky
  num_features: ${data.num_features}
  kind: plain
  sizes: [4, 4]
  rate: 0.1
  weight: 1.0
  is_wide: false
  title: a
  pair: [0.0, 1.0]
  table: {a: 1}
  part: null
  parts: null
  free: null
loss:
  _target_: tiny.TinyLoss
""",
    "model/two.yaml": """\
# @package _global_
model:
  _target_: tiny.Pair
loss:
  one: {_target_: tiny.PairLoss, name: one}
  two: {_target_: tiny.PairLoss, name: two}
""",
}
WORDS = ("--config-dir", "more", "data=unread", "model=picky", "plots=none", "tracker=none", "mode=prod")
IMPORTS = "imports=[tests/template/]"  # where messages_parts.py lies
HEADER = "# @package _global_\n"

# (words of the command line, text of experiment/bad.yaml below its header, what is wrong as "KEY PLACE; ..."). A place
# is LINE:COLUMN of experiment/bad.yaml, "cli", or a whole place; "-" in place of a key: the message has none.
CASES: list[tuple[str, str, str]] = [
    # keys
    ("run.bugdet=3", "", "run.bugdet cli"),
    ("", "run:\n  bugdet: 3\n", "run.bugdet 3:11"),
    ("+run.bugdet=3", "", "run.bugdet cli"),
    ("~run.bugdet", "", "run.bugdet cli"),
    ("runn.budget=3", "", "runn.budget cli"),
    ("", "runn:\n  budget: 3\n", "runn.budget 3:11"),
    ("loader.batchsize=3", "", "loader.batchsize cli"),
    ("optimizer.learning_rate=0.1", "", "optimizer.learning_rate cli"),
    ("model.siezs=[4]", "", "model.siezs cli"),
    ("data.num_clases=3", "", "data.num_clases cli"),
    ("+run.seed=3", "", "run.seed cli"),
    ("paths.outptu=x", "", "paths.outptu cli"),
    # kinds of settings
    ("run.seed=one", "", "run.seed cli"),
    ("", "run:\n  seed: one\n", "run.seed 3:9"),
    ("loader.batch_size=1.5", "", "loader.batch_size cli"),
    ("loader.batch_size=null", "", "loader.batch_size cli"),
    ("", "loader:\n  batch_size:\n", "loader.batch_size 3:14"),
    ("run.tags=a", "", "run.tags cli"),
    ("", "run: {tags: a}\n", "run.tags 2:13"),
    ("loader.drop_last=maybe", "", "loader.drop_last cli"),
    ("", "run:\n  description: [a, b]\n", "run.description 3:16"),
    ("run.ema_decay=high", "", "run.ema_decay cli"),
    ("run=3", "", "run cli"),
    ("", "loader: 64\n", "loader 2:9"),
    # ranges
    ("run.precision=fp16", "", "run.precision cli"),
    ("", "run:\n  precision: fp16\n", "run.precision 3:14"),
    ("loader.batch_size=0", "", "loader.batch_size cli"),
    ("run.seed=-1", "", "run.seed cli"),
    ("run.budget=5min", "", "run.budget cli"),
    ("", "run:\n  budget: 0epochs\n", "run.budget 3:11"),
    ("run.eval_every=often", "", "run.eval_every cli"),
    ("loader.limit_train=1.5", "", "loader.limit_train cli"),
    ("run.ema_decay=1", "", "run.ema_decay cli"),
    ("run.clip_grad_norm=0", "", "run.clip_grad_norm cli"),
    ("run.monitor_mode=maximum", "", "run.monitor_mode cli"),
    ("run.compile=reduce-overhed", "", "run.compile cli"),
    ("paths.data=''", "", "paths.data cli"),
    ("paths.data=/etc/passwd/x", "", "paths.data cli"),
    # choices of groups
    ("optimizer=adamv", "", "optimizer cli"),
    ("experiment=nosuch", "", "experiment cli"),
    ("model=pikcy", "", "model cli"),
    ("optimizer=null", "", "optimizer cli"),
    ("optimizer=[adamw,sgd]", "", "optimizer cli"),
    ("+optimizer=adamw", "", "optimizer cli"),
    ("plots=[curves,curvs]", "", "plots cli"),
    ("", "defaults:\n  - override /scheduler: cosin\n", "scheduler 3:26"),
    # words that cannot be read
    ("optimizer.lr=1e-3)", "", "optimizer.lr cli"),
    ("run.seed=1,2", "", "run.seed cli"),
    ("'model.title=a, b'", "", "model.title cli"),
    ("run.seed", "", "run.seed cli"),
    # YAML
    ("", "run:\n  tags: [1, 2\n  seed: 3\n", "- 4:7"),
    ("", "run:\n  seed: 3\n  seed: 4\n", "- 4:3"),
    ("model=wrong", "", "- more/model/wrong.yaml:2:1"),
    # references
    ("model.rate=${data.nosuch}", "", "model.rate cli"),
    ("", "model:\n  rate: ${nosuch.key}\n", "model.rate 3:9"),
    ("\"optimizer.lr='\\\\${x}'\"", "", "optimizer.lr cli"),
    ("data.num_features=???", "", "data.num_features cli"),
    # targets
    ("model._target_=messages_parts.Pikcy", "", "model._target_ cli"),
    ("", "model:\n  _target_: messages_part.Picky\n", "model._target_ 3:13"),
    ("model._target_=messages_parts.NUMBER", "", "model._target_ cli"),
    ("model._target_=messages_broken.Net", "", "model._target_ cli"),
    ("", "model:\n  part: {_target_: torch.nn.Relu}\n", "model.part._target_ 3:20"),
    ("", "model:\n  parts:\n    - _target_: torch.nn.ReLU\n    - _target_: torch.nn.Linaer\n",
     "model.parts.1._target_ 5:17"),
    ("model=two loss.one._target_=null", "", "loss.one._target_ cli"),
    ("data.dataset=null", "", "data.dataset cli"),
    ("loss=accuracy", "", "loss cli"),
    ("+metrics.recall=3", "", "metrics.recall cli"),
    ("", "rollout: {name: x}\n", "rollout 2:1"),
    # arguments
    ("+model.size=[4]", "", "model.size cli"),
    ("", "model:\n  size: [4]\n", "model.size 3:9"),
    ("~model.num_features", "", "model.num_features more/model/picky.yaml:3:13"),
    ("", "model:\n  part:\n    _target_: torch.nn.Linear\n    in_features: 3\n", "model.part.out_features 4:15"),
    ("", "model:\n  parts:\n    - {_target_: torch.nn.Linear, in_features: 3, out: 4}\n",
     "model.parts.0.out 4:56; model.parts.0.out_features 4:18"),
    ("data.dataset._target_=messages_parts.WithoutSplit", "", "data.dataset._target_ cli"),
    ("~data.dataset.num_items", "", "data.dataset.num_items more/data/unread.yaml:2:13"),
    ("+data.val_arguments.augment=true", "", "data.val_arguments.augment cli"),
    ("+optimizer.momentum=0.9", "", "optimizer.momentum cli"),
    ("scheduler=step ~scheduler.schedule.step_size", "",
     "scheduler.schedule.step_size configs/scheduler/step.yaml:3:13"),
    ("'+tracker.mine={_target_: tiny.FinalLabels, project: x}'", "", "tracker.mine.project cli"),
    # kinds of arguments
    ("optimizer.lr=fast", "", "optimizer.lr cli"),
    ("", "optimizer:\n  lr: fast\n", "optimizer.lr 3:7"),
    ("data.num_features=1.5", "", "model.num_features more/model/picky.yaml:4:17"),
    ("model.kind=depe", "", "model.kind cli"),
    ("model.sizes=4", "", "model.sizes cli"),
    ("", "model:\n  sizes: [4, wide]\n", "model.sizes 3:10"),
    ("model.rate=null", "", "model.rate cli"),
    ("model.is_wide=sometimes", "", "model.is_wide cli"),
    ("", "model:\n  title: no\n", "model.title 3:10"),
    ("model.pair=low", "", "model.pair cli"),
    ("model.table=[a]", "", "model.table cli"),
    ("model.table=a", "", "model.table cli"),
    # rules between settings
    ("run.monitor=accuracy", "", "run.monitor cli"),
    ("run.monitor=train/loss", "", "run.monitor cli"),
    ("run.monitor=val/acurracy optimizer.lr=fast", "", "run.monitor cli; optimizer.lr cli"),
    ("run.monitor=val/acc metrics=3", "", "metrics cli"),
    ("run.monitor=val/acc loss=3 optimizer.lr=fast", "", "loss cli; optimizer.lr cli"),
    ("model=two run.monitor=val/loss", "", "run.monitor cli"),
    ("", "run:\n  monitor: rollout/score\n", "run.monitor 3:12"),
    ("run.eval_every=null run.monitor=val/loss", "", "run.monitor cli"),
    ("scheduler=plateau run.eval_every=null", "", "scheduler.monitor configs/scheduler/plateau.yaml:9:10"),
    ("scheduler=plateau scheduler.monitor=loss", "", "scheduler.monitor cli"),
    ("scheduler=step scheduler.interval=batch", "", "scheduler.interval cli"),
    ("+scheduler.every=3", "", "scheduler.every cli"),
    ("model=two run.target_loss=0.1", "", "run.target_loss cli"),
    ("model=two optimizer=two", "", "optimizer more/optimizer/two.yaml:1:1"),
    ("imports=[nosuch_module]", "", "imports cli"),
    ("imports=[./nosuch/]", "", "imports cli"),
    # files of groups
    ("model=lost", "", "- more/model/lost.yaml:2:1"),
    ("model=greedy", "", "- more/model/greedy.yaml:4:1"),
    # several at once
    ("run.precision=fp16 loader.batch_size=0", "", "run.precision cli; loader.batch_size cli"),
    ("optimizer.lr=fast run.seed=one", "model:\n  sizes: 4\n  siez: 3\n",
     "run.seed cli; model.sizes 3:10; model.siez 4:9; optimizer.lr cli"),
    ("model=pikcy model.sizes=[4] run.budget=5min optimizer.lr=fast", "",
     "model cli; run.budget cli; optimizer.lr cli"),
    ("run.bugdet=3 run.seed=1,2 optimizer=adamv model.rate=null", "run:\n  seed: one\n  monitor: accuracy\n",
     "run.seed cli; optimizer cli; run.bugdet cli; run.seed 3:9; run.monitor 4:12; model.rate cli"),
    ("run.tags=x model.free=${nosuch}", "paths:\n  data: ''\nloader:\n  limit_eval: none\n",
     "run.tags cli; model.free cli; paths.data 3:9; loader.limit_eval 5:15"),
    ("api_key=sk-0123456789abcdef run.precision=fp16", "", "api_key cli; run.precision cli"),
    ("--multirun run.seed=-1,-2 run.precision=fp16", "", "run.seed cli; run.precision cli"),
]  # fmt: skip
MORE = {  # files that only some cases choose
    "optimizer/two.yaml": "one: {_target_: torch.optim.SGD, lr: 0.1}\nother: {_target_: torch.optim.SGD, lr: 0.1}\n",
    "model/lost.yaml": "# Not global.\nmodel:\n  _target_: tiny.Pair\n",
    "model/greedy.yaml": f"{HEADER}model:\n  _target_: tiny.Pair\nrun:\n  seed: 3\n",
    "model/wrong.yaml": "model:\n\t_target_: tiny.Pair\n",
}


def words_of(case: tuple[str, str, str]) -> list[str]:
    """The command line of a case."""
    own = shlex.split(case[0])
    usual = [
        word for word in (*WORDS, IMPORTS) if not any(word.partition("=")[0] == one.partition("=")[0] for one in own)
    ]
    return [*usual, *(["experiment=bad"] if case[1] else []), *own]


def write_files(folder: Path, case: tuple[str, str, str]) -> None:
    """The folder of configs of a case."""
    for place, text in {**FILES, **MORE, "experiment/bad.yaml": HEADER + case[1]}.items():
        file = folder / "more" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def run_case(case: tuple[str, str, str], option: str = "") -> tuple[int, str, list[str]]:
    """The exit code of train.py, what it says, and the files that it left."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_files(folder, case)
        before = set(folder.rglob("*"))
        words = [*filter(None, [option]), *words_of(case), "paths.output_root=runs"]
        done = run_train(*words, f"paths.output={folder}/runs", cwd=folder, code=None)
        left = [str(path.relative_to(folder)) for path in sorted({*folder.rglob("*")} - before)]
        said = done.stderr.replace(f"{folder}/", "").replace(f"{ROOT}/", "")
        return done.returncode, re.sub(r"(?m)^[\d-]{10} [\d:]{8} ", "", said), left


def shown(case: tuple[str, str, str], said: str) -> str:
    """A case and its message, as the golden text has them."""
    lines = [f"$ train.py {case[0]}".rstrip()]
    lines += [f"  | {line}" for line in (HEADER + case[1]).splitlines()] if case[1] else []
    return "\n".join([*lines, said.rstrip("\n"), ""])


def texts(only: str = "") -> Iterator[str]:
    """The golden text, case by case; some are at work at a time."""
    chosen = [case for case in CASES if only in " ".join(case)]
    with ThreadPoolExecutor(2) as pool:
        for case, (_, said, _) in zip(chosen, pool.map(run_case, chosen), strict=True):
            yield shown(case, said)


if __name__ == "__main__":
    for text in texts(*sys.argv[1:2]):
        print(text, flush=True)
