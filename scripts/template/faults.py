"""Faults that planted.py plants: by file, what goes wrong, the text that gives way, and what stands there instead.

Each breaks a promise of README.md, configs/README.md or scripts/README.md. The old texts stand exactly once in their
file (a quick test looks), so they are as short as they can be: change them along with the sources.
"""

SRC = "src/scaffolding"
CORE = f"{SRC}/core"

FAULTS: dict[str, list[tuple[str, str, str]]] = {
    f"{SRC}/train.py": [
        ("main returns None", "return exp.state.best", "return None"),
        ("gradients are never zeroed", "optimizer.zero_grad()", "pass"),
        ("float16 gradients are clipped with their scale", "exp.scaler.unscale_(optimizer)", "pass"),
        ("gradients are measured, not clipped", "exp.settings.clip_grad_norm)", "None)"),
        ("accumulated gradients without their weight", "loss, total = loss * weight, ", "loss, total = loss, "),
        ("gradients keep the weights of a loss", "            average_gradients(", "            (lambda *_: 0)("),
        ("learning rates are not logged", "numbers |= learning_rates(optimizer, name)", "pass"),
        ("test rows carry the last step", 'evaluate(exp, "test"), best)', 'evaluate(exp, "test"))'),
        ("skipped updates count", "if exp.scaler.took_step():", "if exp.scaler.took_step() is not None:"),
        ("averaged weights are never updated", "exp.ema.update_parameters(exp.model)", "pass"),
        ("schedules of steps stand still", 'advance(exp.schedulers, "step")', "pass"),
        ("schedules of epochs stand still", 'advance(exp.schedulers, "epoch")', "pass"),
        ("rollouts are never due", '("eval", "rollout", "plot")', '("eval", "plot")'),
        ("figures of the start are not drawn", 'plot.draw(exp, "start")', "pass"),
        ("patience counts nothing", "evaluations_since_best += 1", "evaluations_since_best += 0"),
        ("rollouts see the raw weights", "exp.rollout(exp.eval_model", "exp.rollout(exp.model"),
        ("rollouts draw from training's generators", ', keys.keyed(exp.settings.seed, "rollout")', ""),
        ("rollouts in training mode", "evaluating(*parts), ", ""),
    ],
    f"{SRC}/evaluate.py": [
        ("evaluation weighs batches, not items", "loss, parts, num_items)", "loss, parts, 1)"),
        ("evaluation in training mode", "evaluating(model, *exp.losses.values(), *exp.metrics.values()), ", ""),
        ("metrics remember the last evaluation", "metric.reset()", "pass"),
        ("evaluation draws from training's generators", ', keys.keyed(seed, "evaluate", split):', ":"),
    ],
    f"{CORE}/edits/replace.py": [
        ("replace= changes targets", ' or name == "_target_"', ""),
        ("replace= changes what is referred to", "part if index % 2 else part.replace(*pair)", "part.replace(*pair)"),
        ("replace= may replace nothing", "if not keys and (old, new) not in known:", "if False:"),
        ("replace= changes what a run is", " and (_is_absolute(before) or _is_absolute(after))", ""),
    ],
    f"{CORE}/preflight/gather.py": [
        ("what shows late has no place", "error.faults).look_at(words)", "error.faults).faults"),
    ],
    f"{CORE}/checks/monitors.py": [
        ("a misspelt monitor shows when data are read", "if allowed is not None and name", "if allowed == [] and name"),
        ("computed names of values are overlooked", "case ast.Return() |", "case"),
    ],
    f"{CORE}/edits/append.py": [
        ("append: replaces the list", "composed, key, [*before, *items])", "composed, key, items)"),
        ("append: the last word for a list counts alone", "found[key] = [*earlier, *items]", "found[key] = items"),
    ],
    f"{CORE}/report/card.py": [
        ("a notebook reads a run's texts as HTML", "<td>{html.escape(text)}</td>", "<td>{text}</td>"),
    ],
    f"{CORE}/meter.py": [
        ("a row weighs steps, not items", "value * num_items", "value"),
        ("a row has the last step alone", "if name not in own:", "if name not in values:"),
    ],
    f"{CORE}/clock.py": [
        ("time is counted for the phase that follows", "self.seconds[self.phase] = self", "self.seconds[phase] = self"),
    ],
    f"{CORE}/folder/summary.py": [
        ("results are those of the last evaluation", "or not has_best", "or True"),
        ("a table takes the worst for the best", 'pick = max if mode == "max"', 'pick = max if mode != "max"'),
    ],
    f"{SRC}/core/means.py": [
        ("a loss cannot say what its mean counts", 'values.get("weight", weight)', "weight"),
        ("long sums in half precision", "values.to(torch.promote_types(values.dtype, torch.float32))", "values"),
        ("means of several processes are in no order", "(numbers[place], ranks[place])", "ranks[place]"),
        ("what another process counts counts twice", "if weight == 0:", "if weight < 0:"),
    ],
    f"{SRC}/parallel.py": [
        ("gradients do not meet", "require_backward_grad_sync = now", "require_backward_grad_sync = False"),
        ("gradients that did not meet are not noticed", "if not self.have_met:", "if False:"),
        ("gradients meet after each batch", "require_backward_grad_sync = now", "require_backward_grad_sync = True"),
        ("gradients lie in another order after a resume", "        self._settle(exp, name)", "        pass"),
        ("nobody looks for parameters without gradients", "find_unused_parameters=bool(unused)", "static_graph=False"),
        ("gradients of shards are averaged", "set_gradient_divide_factor(1.0)", "set_gradient_divide_factor(2.0)"),
    ],
    f"{SRC}/core/batches/workers.py": [
        ("workers that hang are waited for", "if self.runs_later_code or self._are_alive():", "if True:"),
    ],
    f"{SRC}/core/resume/job.py": [
        ("a job always starts from its beginning", 'if not (run / "config.yaml").exists():', "if True:"),
        ("what only resume= gave is missed", "*NOT_KEPT, *added,", "*NOT_KEPT,"),
        ("a word that is gone is not missed", "    if lacking:", "    if False:"),
    ],
    f"{SRC}/core/sweep/search.py": [
        ("half an entry stays in the journal", "    if whole != content:", "    if False:"),
    ],
    f"{SRC}/core/sweep/crew.py": [
        ("what was stopped has failed", "return code > 128 or (", "return code > 128 and ("),
    ],
    f"{SRC}/core/sweep/points.py": [
        ("finished points are done again", 'elif status != "finished":', "else:"),
    ],
    f"{SRC}/core/processes/ending.py": [
        ("nobody says who failed", "if host == socket.gethostname() and not is_alive(pid):", "if False:"),
    ],
    f"{SRC}/core/processes/several.py": [
        ("buffers are sent as they lie", "whole = buffer.contiguous()", "whole = buffer"),
        ("a process that waits cannot be stopped", "with ends_at_once():", "with contextlib.nullcontext():"),
        ("processes stop when they like", "dist.all_reduce(value, dist.ReduceOp.MAX, group=self.host)", "pass"),
        ("totals of one process alone", "dist.all_reduce(total)", "pass"),
        ("other words are not noticed", "if len(set(others)) > 1:", "if False:"),
        ("stray weights are not noticed", "rel_tol=1e-6", "rel_tol=1.0"),
    ],
    f"{SRC}/experiment.py": [
        ("the final test on the last weights", "self.load_weights(content)\n        for", "for"),
        ("the seed does not reach the weights", 'keys.keyed(self.settings.seed, "model")', 'keys.keyed("model")'),
        ("evaluation of the raw weights", "return self.ema.module", "return self.model"),
        ("a row after a resume lacks the steps before", 'self.meter.load_state_dict(content["meter"])', "pass"),
        ("target_loss is passed from below", "last[self.main_loss] < target", "last[self.main_loss] > target"),
        ("patience is one evaluation longer", "since_best >= patience", "since_best > patience"),
        ("noise is the same at every position", "network, epoch, position))", "network, epoch))"),
        ("noise is the same in every epoch", "network, epoch, position))", "network, position))"),
        ("noise is the same for every network", "seed, network, epoch, position))", "seed, epoch, position))"),
        ("frozen parameters are handed to the optimizer", "if parameter.requires_grad}", "if True}"),
        ("a schedule's state is not restored", "schedule.scheduler.load_state_dict(", "dict("),
        ("a scaler's state is not restored", 'if content["scaler"]:', "if False:"),
        ("objects are not restored", "            elif name in saved:\n", "            elif False:\n"),
        ("the count of averages is not restored", "self.ema.n_averaged.fill_", "print"),
        ("from_path leaves the model in training mode", "part.eval()", "pass"),
        (
            "what a loss learns is not trained",
            "loss, nn.Module):\n                known",
            "loss, str):\n                known",
        ),
        ("rollouts read all items", 'settings["limit_rollout"] is not None', "False"),
        ("a setting that nobody reads", '"start_method", "timeout")', '"start_method")'),
        ("drop_last does nothing", 'is_train and settings["drop_last"]', "False"),
        ("schedules ignore run.schedule_budget", "self.settings.schedule_budget or self", "self"),
    ],
    f"{CORE}/precision.py": [
        ("run.compile does nothing", "network.compile(dynamic=False, mode=None if mode is True else mode)", "pass"),
    ],
    f"{SRC}/splits.py": [
        ("training items are validated on", "order[num_val:].sort().values", "order.sort().values"),
        ("run.seed moves the splits", 'return data.get("split_seed") or 0', "return int(torch.initial_seed())"),
        ("a dataset cannot say its order", 'if hasattr(dataset, "order"):', "if False:"),
        ("validation items are augmented", 'validation = read("train", **changes)', 'validation = read("train")'),
    ],
    f"{SRC}/losses.py": [
        ("label_smoothing does nothing", "label_smoothing=self.label_smoothing", "label_smoothing=0.0"),
    ],
    f"{CORE}/batches/loader.py": [
        (
            "the order is that of every epoch",
            "generator(self.seed, self.name, epoch)",
            "generator(self.seed, self.name)",
        ),
        ("a batch read at once is keyed by nothing", "self.name, epoch, position), with", "self.name), with"),
    ],
    f"{CORE}/batches/samples.py": [
        ("augmentation is the same in every epoch", "self.name, epoch, index, ", "self.name, index, "),
        ("collation is not keyed", 'keys.key(self.seed, self.name, "collate", *wanted[0])', "time.time_ns()"),
    ],
    f"{CORE}/config/build.py": [
        ("what a constructor raises is a traceback", "isinstance(cause, UserError | RunError)", "True"),
        ("a broken import is called a missing module", 'if f"{name}.".startswith(f"{error.name}."):', "if True:"),
    ],
    f"{CORE}/config/project.py": [
        ("files of groups may set run.*", "if wrong and text.startswith(GLOBAL):", "if False:"),
    ],
    f"{CORE}/config/compose.py": [
        ("secrets in overrides are kept", "masked(RESOLVER.sub(_value_of, word))", "RESOLVER.sub(_value_of, word)"),
    ],
    f"{CORE}/preflight/arguments.py": [
        ("wrong arguments show when the run has begun", "if takes_any or str(name)", "if True or str(name)"),
        ("whole numbers are refused as floats", "return isinstance(value, int | float)", "return type(value) is float"),
    ],
    f"{CORE}/preflight/sections.py": [
        ("values out of range pass", "if not is_allowed:", "if False:"),
    ],
    f"{CORE}/preflight/origins.py": [
        ("the first place that set a key is named", "return found[key][-1].place", "return found[key][0].place"),
    ],
    f"{CORE}/folder/reading.py": [
        ("links may lead out of a run's folder", "if not target.is_relative_to(root):", "if False:"),
    ],
    f"{CORE}/errors.py": [
        ("the least likely word is called nearest", "key=likeness, reverse=True)", "key=likeness)"),
        ("a full disk ends like any failure", "code = 74", "code = 1"),
    ],
    f"{CORE}/intervals.py": [
        ("nothing is due at the end of the budget", "== 0 or step == self.num_steps", "== 0"),
        ("half an epoch is rounded down", "math.ceil(round(amount, 6))", "math.floor(amount)"),
    ],
    f"{CORE}/launch.py": [
        ("wrong input ends like a failed run", "1 if written else 2))  #", "1))  #"),
        (".env is not read", 'dotenv.load_dotenv(project.root / ".env")', "dotenv"),
        ("the jobs of a sweep lie with the other runs", "cfg.paths.output = HydraConfig.get().sweep.dir", "pass"),
        ("main's result is lost", "return loop(cfg)", "loop(cfg)"),
    ],
    f"{CORE}/system.py": [
        ("a lock that workers inherit", "fcntl.lockf(file, ", "fcntl.flock(file, "),
        ("a lock is not taken on Windows", "msvcrt.locking(number, msvcrt.LK_NBLCK, 1)", "pass"),
        ("a Ctrl-C stops trackers", '{"start_new_session": True}', '{"start_new_session": False}'),
    ],
    f"{CORE}/folder/facts.py": [
        ("the final test stays when a run goes on", ' or row["split"] == "test"', ""),
        ("cut rows are lost", "        if lines:\n", "        if False:\n"),
    ],
    f"{CORE}/folder/folder.py": [
        ("a lock is not taken", "system.lock(file)", "pass"),
        ("the lock of a deleted folder counts", "if not path.exists() or not", "if False and not"),
        ("files are not flushed to the disk", "os.fsync(file.fileno())", "pass"),
    ],
    f"{CORE}/provenance/policy.py": [
        ("code that is not committed is not refused", 'if wanted in ("warn", "refuse"):', 'if wanted == "warn":'),
        ("a job is run without being kept", "if wanted == EPHEMERAL and carried_on:", "if False:"),
    ],
    f"{CORE}/provenance/ephemeral.py": [
        ("an ephemeral run is kept", "with _deleted_at_the_end(cfg.paths.output):", "with contextlib.nullcontext():"),
    ],
    f"{CORE}/provenance/worktree.py": [
        ("a worktree lacks what is not committed", "if patch:\n        git(place", "if False:\n        git(place"),
    ],
    f"{CORE}/provenance/since.py": [
        ("the code of a run is that of its commit", "        if patch:", "        if False:"),
    ],
    f"{CORE}/provenance/data.py": [
        ("data of another size are the same", '("count", "size", "hash")', '("count",)'),
    ],
    f"{CORE}/provenance/patch.py": [
        ("the patch lacks new files", "found.setdefault(name, Entry(name))", "pass"),
        ("the patch has key files", "if is_key_file(path.name):", "if False:"),
        ("the patch has huge files", "if size > MAX_FILE:", "if False:"),
    ],
    f"{CORE}/provenance/provenance.py": [
        ("packages are not noted", "for found in installed", "for found in installed[:1]"),
    ],
    f"{CORE}/optimizers.py": [
        ("a parameter group has the settings of the rest", 'group["name"], **settings', 'group["name"]'),
        ("max_ndim takes all parameters", 'group.get("max_ndim", parameter.ndim)', "parameter.ndim"),
    ],
    f"{CORE}/signals.py": [
        ("a second signal is not heard", "_exit(128 + number)", "return"),
    ],
    f"{CORE}/find.py": [
        ("a run keeps the scratch disk of a machine", 'get("change") == "machine"', 'get("change") == "none"'),
        ("latest may be a dev run", 'if not key.startswith("dev/")', ""),
    ],
    f"{SRC}/data/text.py": [
        ("special tokens take ids of the text", "num_ids = vocab_size - num_special_tokens", "num_ids = vocab_size"),
    ],
    f"{CORE}/output.py": [
        ("the console shows all messages", '"level": level.upper()', '"level": "INFO"'),
        ("nothing reaches log.txt", 'file.write(text.encode(errors="backslashreplace"))', "pass"),
    ],
    f"{CORE}/modes.py": [
        ("a frozen part learns after an evaluation", "module.training = mode", "module.training = True"),
    ],
    f"{SRC}/schedules.py": [
        ("a schedule looks at rollouts as at evaluations", "elif split_of(monitor) == split:", "else:"),
    ],
    f"{CORE}/resume/lineage.py": [
        ("a fork from the latest weights", "files.best_or_newest(None)", "files.newest() or (run, {})"),
    ],
    f"{CORE}/resume/restore.py": [
        ("other data pass at a resume", "if saved[:2] != now[:2]:", "if False:"),
        ("items of other values pass at a resume", "len(saved) < 3 or ", "True or "),
        ("a changed optimizer setting does nothing", "group[name] = made[name]", "pass"),
        ("best of another monitor is kept", "exp.state.best = exp.state.best_step = None", "pass"),
    ],
    f"{CORE}/resume/resume.py": [
        ("a rerun with other code", "code_hash(project.sources):", "known['code']:"),
    ],
    f"{CORE}/resume/rules.py": [
        ("a resume may change what a run is", 'if word == "identity":', "if False:"),
        ("a rerun may change its course", 'if verb == "rerun" and', "if False and"),
    ],
    f"{CORE}/checks/rehearsal.py": [
        ("a rehearsal starts before settings changed", '["step"] >= changed]', '["step"] >= 0]'),
        ("the rehearsal compares nothing", "raise RunError(message)", "pass"),
    ],
    f"{CORE}/checks/estimate.py": [
        ("the estimate forgets the steps", "duration(num_steps * step + ", "duration(step + "),
        ("the estimate counts the batches of dev mode", "/ items)\n", "/ 8)\n"),
    ],
    f"{CORE}/session/record.py": [
        ("items_per_second times 1000", '["items_per_second"] = round(', '["items_per_second"] = round(1000 * '),
        ("memory is in GB", "peak_memory() / 1e6", "peak_memory() / 1e9"),
        ("a checkpoint may be ahead of the rows", "self.facts.sync()  #", "pass  #"),
        ("a disk that stays full is waited for", "MAX_FAILED_SAVES = 10", "MAX_FAILED_SAVES = 10000"),
    ],
    f"{CORE}/session/report.py": [
        ("workers start late, with code edited since", "exp.start_workers()", "pass"),
        ("guessing gives another loss", "math.log(count)", "math.log2(count)"),
        ("a rerun is not compared", "if repr(old.get(name)) != repr(new.get(name)):", "if False:"),
        ("a figure that failed is forgotten", "    if failed:", "    if False:"),
        ("another torch is not told", "if now != before:", "if False:"),
    ],
    f"{CORE}/session/new.py": [
        ("words of Python are lost", "[*words, *exp.words]", "[*words]"),
        ("the jobs of a sweep have no number", 'suffix = f"_job{hydra.job.num}"', 'suffix = ""'),
    ],
    f"{CORE}/session/run.py": [
        ("not finite at a logged row", "self.check_finite()\n            values", "values"),
        ("a weight that is not finite is saved", "self.check_finite()\n        self.clock", "self.clock"),
        ("a run at work has the summary of before", "(self.path / summary.FILE).unlink(missing_ok=True)", "pass"),
        ("Ctrl-C reads as preempted", '"interrupted" if reason', '"preempted" if reason'),
    ],
    f"{CORE}/tracking/follow.py": [
        ("a tracker that fails is not told", "except BaseException as error:", "except KeyError as error:"),
        ("figures are told before their rows", '.step < row["step"]', '.step <= row["step"]'),
        ("a killed run leaves its trackers", "os._exit(1)  # when the run", "pass  # when the run"),
    ],
    f"{CORE}/tracking/tracking.py": [
        ("a tracker that hangs is left", "system.kill_session(self.process)", "pass"),
    ],
    f"{CORE}/state/checkpoint.py": [
        ("sharded parameters are fused", "    if is_sharded and", "    if False and"),
        ("a step is read on the device", 'map_location="cpu", weights_only=True, mmap', "weights_only=True, mmap"),
        ("damage is not detected", "bad = archive.testzip()", "bad = None"),
        ("checkpoints may hold code", "weights_only=True)\n    except", "weights_only=False)\n    except"),
        ("optimizer states in the weights' type", "own[name] = value.to(own[name].device)", "pass"),
    ],
    f"{CORE}/state/files.py": [
        ("all checkpoints are kept", "old.unlink(missing_ok=True)", "pass"),
        ("model.pt is missing", "self.best)\n        self.point_to_best()", "self.best)"),
        ("a copy of the best stays old", "link_checkpoint(self.best, self.model)", "str(self.best)"),
    ],
    f"{CORE}/state/progress.py": [
        ("more is worse", "return value > self.best", "return value < self.best"),
        ("NaN may be the best", "return value == value", "return True"),
        ("items are not counted", "self.samples += num_items", "pass"),
    ],
    f"{SRC}/plot/__init__.py": [
        ("a figure that fails ends the run", "exp.failed_figures[kind] = f", "raise\n                _ = f"),
        ("figures draw from training's generators", ', keys.keyed(exp.settings.seed, "plot"):', ":"),
    ],
    f"{SRC}/plot/gradients.py": [
        ("norms of an older update", "self.step is None or self.step != exp.state.step", "self.step is None"),
    ],
    f"{SRC}/plot/schedule.py": [
        ("plans begin with a later rate", 'group.get("max_lr", group.get("initial_lr", group["lr"]))', 'group["lr"]'),
    ],
    f"{SRC}/plot/confusion.py": [
        ("columns are the true classes", "pairs = labels.long() * num_classes + logits.float().argmax(dim=1)",
         "pairs = logits.float().argmax(dim=1) * num_classes + labels.long()"),
    ],
    f"{SRC}/tracker/tensorboard.py": [
        ("event files of an earlier session stay", "shutil.rmtree(self.where)", "pass"),
        ("a run that failed reads as finished", "if exit_code == 0 else begin", "if True else begin"),
    ],
    "configs/mode/dev.yaml": [
        ("dev mode without an odd last batch", "limit_train: 37", "limit_train: 40"),
        ("dev mode evaluates whole batches", "limit_eval: 21", "limit_eval: 16"),
        ("dev mode has one epoch", "budget: 2epochs", "budget: 1epochs"),
        ("dev mode does not resume", "rehearse_resume: true", "rehearse_resume: false"),
        ("dev mode draws nothing", "plot_every: 1epoch", "plot_every: null"),
        ("dev mode rolls nothing out", "rollout_every: 1epoch", "rollout_every: null"),
        ("dev mode has no workers", "num_workers: 2", "num_workers: 0"),
        ("dev mode has no tracker", "wandb_offline", "none"),
        ("dev runs lie with the real ones", "${paths.output_root}/dev", "${paths.output_root}"),
        ("dev mode saves once", "save_every: 1\n", "save_every: 1epoch\n"),
    ],
    "configs/mode/overfit.yaml": [
        ("overfit mode with a schedule", "override /scheduler: none", "override /scheduler: cosine"),
        ("overfit mode on all items", "limit_train: 32", "limit_train: null"),
    ],
    "configs/mode/prod.yaml": [
        ("prod mode has no tracker", "override /tracker: wandb", "override /tracker: none"),
    ],
    "configs/base.yaml": [
        ("base.yaml wins over a recipe", "  - _self_", "  #"),
    ],
    f"{CORE}/table/runs.py": [
        ("dev runs in the table", 'or not name.startswith("dev/")', "or True"),
        ("a short name that another run has, too", "rests[rest] == 1 and", "rests[rest] and"),
    ],
    f"{CORE}/table/query.py": [
        ("the worst runs come first", "iif(_is_max, -best, best)", "iif(_is_max, best, -best)"),
        ("runs without a value come first", "is null, ({key})", "is not null, ({key})"),
        ("a division of whole numbers", 'self.sql += ["*", "1.0"]', "pass"),
        ("a column may be compared with null", 'if word == "null" and', 'if word == "nil" and'),
        ("0 < lr < 1 is always true", "if self.compared[-1]:", "if False:"),
    ],
    f"{CORE}/table/statistics.py": [
        ("the spread of a population", "for value in values) / (count - 1))", "for value in values) / count)"),
        ("the interval of a normal distribution", "t_quantile(0.975, count - 1)", "1.96"),
        ("a test of one side", "sum(abs(total) >= least", "sum(total >= least"),
    ],
    f"{CORE}/table/seeds.py": [
        ("a repeated run is evidence", "found.runs[seed(run)] = run", 'found.runs[run["name"]] = run'),
        ("runs that did not finish count", 'if run["status"] == "finished"]', "]"),
        ("the pairs of a test are of any seeds", "[values[seed] - first[seed] for seed in values if seed in first]",
         "[one - other for one, other in zip(values.values(), first.values())]"),
    ],
    f"{CORE}/table/best.py": [
        ("the best run is the worst", '"monitor_mode"] == "max" else min', '"monitor_mode"] == "min" else min'),
    ],
    "scripts/find_hardest.py": [
        ("the easiest items", "descending=True", "descending=False"),
    ],
    "scripts/export.py": [
        ("an export is not compared", "if difference is not None:", "if False:"),
    ],
    "scripts/predict.py": [
        ("outputs are probabilities", "shares = output.softmax(dim=0)", "shares = output"),
        ("any array is taken", "if values.shape[1:] != like.shape or", "if"),
    ],
    "scripts/evaluate.py": [
        ("always the test split", "evaluate(exp, args.split)", 'evaluate(exp, "test")'),
    ],
    f"{CORE}/inference/traced.py": [
        ("any output is near enough", "if not difference <= tolerance:", "if False:"),
    ],
}  # fmt: skip

# By the file of a fault: the tests that run before the others, in this order. It only saves time.
FIRST: dict[str, str] = {
    f"{SRC}/train.py": "loop groups module faults",
    f"{SRC}/evaluate.py": "metrics loop module",
    f"{SRC}/parallel.py": "processes",
    f"{SRC}/experiment.py": "experiment loop groups module loading",
    f"{SRC}/splits.py": "splits",
    f"{SRC}/losses.py": "metrics module",
    f"{SRC}/schedules.py": "module loop",
    f"{SRC}/plot/__init__.py": "plots loop",
    f"{SRC}/plot/gradients.py": "plots",
    f"{SRC}/plot/schedule.py": "plots",
    f"{SRC}/plot/confusion.py": "plots",
    f"{SRC}/tracker/tensorboard.py": "tensorboard",
    f"{CORE}/batches/loader.py": "loop keys resume",
    f"{CORE}/batches/samples.py": "loop keys resume",
    f"{CORE}/config/build.py": "preflight config",
    f"{CORE}/config/project.py": "config",
    f"{CORE}/config/compose.py": "config secrets",
    f"{CORE}/preflight/arguments.py": "origins",
    f"{CORE}/preflight/sections.py": "config",
    f"{CORE}/preflight/origins.py": "origins",
    f"{CORE}/folder/reading.py": "trust",
    f"{CORE}/errors.py": "config faults",
    f"{CORE}/intervals.py": "intervals",
    f"{CORE}/launch.py": "config loop scripts verbs",
    f"{CORE}/folder/facts.py": "facts resume",
    f"{CORE}/folder/folder.py": "folder",
    f"{CORE}/provenance/data.py": "data",
    f"{CORE}/provenance/patch.py": "provenance secrets",
    f"{CORE}/provenance/policy.py": "policy",
    f"{CORE}/provenance/since.py": "resume",
    f"{CORE}/provenance/worktree.py": "recreate submit",
    f"{CORE}/provenance/ephemeral.py": "policy",
    f"{CORE}/provenance/provenance.py": "provenance",
    f"{CORE}/optimizers.py": "groups",
    f"{CORE}/edits/replace.py": "replace",
    f"{CORE}/edits/append.py": "append",
    f"{CORE}/preflight/gather.py": "loop preflight",
    f"{CORE}/report/card.py": "card",
    f"{SRC}/data/vocabulary.py": "text",
    f"{SRC}/data/text.py": "text",
    f"{CORE}/signals.py": "resume console",
    f"{CORE}/find.py": "verbs loading config",
    f"{CORE}/means.py": "metrics processes",
    f"{CORE}/processes/ending.py": "processes",
    f"{CORE}/processes/several.py": "processes",
    f"{CORE}/batches/workers.py": "faults",
    f"{CORE}/resume/job.py": "job",
    f"{CORE}/sweep/points.py": "sweep",
    f"{CORE}/sweep/search.py": "sweep",
    f"{CORE}/sweep/crew.py": "sweep",
    f"{CORE}/output.py": "console",
    f"{CORE}/modes.py": "loop experiment module",
    f"{CORE}/resume/lineage.py": "verbs",
    f"{CORE}/resume/restore.py": "resume verbs",
    f"{CORE}/resume/resume.py": "verbs resume",
    f"{CORE}/resume/rules.py": "verbs resume",
    f"{CORE}/checks/rehearsal.py": "resume loop batteries",
    f"{CORE}/checks/estimate.py": "loop",
    f"{CORE}/session/record.py": "loop faults resume",
    f"{CORE}/session/report.py": "loop verbs",
    f"{CORE}/session/run.py": "faults loop resume",
    f"{CORE}/tracking/follow.py": "tracking",
    f"{CORE}/tracking/tracking.py": "tracking",
    f"{CORE}/state/checkpoint.py": "checkpoint",
    f"{CORE}/state/files.py": "folder checkpoint resume",
    f"{CORE}/state/progress.py": "loop resume",
    "configs/mode/dev.yaml": "loop batteries",
    "configs/mode/overfit.yaml": "loop batteries",
    "configs/mode/prod.yaml": "loop config",
    "configs/base.yaml": "config",
    f"{CORE}/table/runs.py": "runs table",
    f"{CORE}/table/query.py": "table runs",
    f"{CORE}/table/statistics.py": "table",
    f"{CORE}/table/seeds.py": "table runs",
    f"{CORE}/table/best.py": "table runs",
    "scripts/find_hardest.py": "scripts",
    "scripts/export.py": "inference",
    "scripts/predict.py": "inference",
    "scripts/evaluate.py": "inference",
    f"{CORE}/session/new.py": "fit",
    f"{CORE}/inference/traced.py": "inference",
}

# Faults that no quick test finds, and why that is so.
UNSEEN: dict[str, str] = {
    "workers start late, with code edited since": "a test of the full set finds it: spawned workers take long",
}
