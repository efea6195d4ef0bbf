"""transformers' Trainer, taught to train a planned sequence of steps and to speak only through events."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from peft import PeftModel
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from peft_nb.errors import RunError, StoreError
from peft_nb.events import Checkpointed, Evaluated, Event, Notice, Preparing, Scored, StepLogged, TimeLeft
from peft_nb.models import quantize
from peft_nb.spec import RunSpec
from peft_nb.system import adapter_weights, transformers_private
from peft_nb.system.files import flush
from peft_nb.system.resources import (
    device_available_mb,
    device_memory_mb,
    give_back_memory,
    process_memory_mb,
    processes,
    trim_memory,
)
from peft_nb.training import checkpoint, neftune, optimizer, probe
from peft_nb.training.best import Best
from peft_nb.training.draws import OwnDraws
from peft_nb.training.gather import gathered
from peft_nb.training.hooks import Hooks
from peft_nb.training.objectives import Objective
from peft_nb.training.packing import share_of
from peft_nb.training.stop import Abandoned, NotFinite, StopFlag, agreed

CHECKPOINT_SECONDS = 60.0
TRIM_SECONDS = 10.0  # batches of ever other sizes leave ever more holes in the heap
UNDO_BYTES = 2**26  # of trained parameters, up to which a copy of them is kept to go back by a step


class PlannedTrainer(Trainer):
    """A Trainer whose data set is the list of optimizer steps.

    Item ``i`` holds the rows of step ``i``, so the whole run is one pass; resuming is skipping items, and each of
    several processes takes its share of an item. A step is cut into micro-batches by a token budget, and its loss
    is the sum over the step divided by the targets of the whole step (supervised tokens, or labelled texts), whatever
    the cut.

    Parameters
    ----------
    model : PeftModel
        The base with the adapter to train.
    spec : RunSpec
        The run's settings.
    objective : Objective
        How a micro-batch becomes a loss; it must be installed around :meth:`train`.
    examples, eval_examples : sequence of Example
        Training and evaluation examples.
    steps : list of list of int
        What :func:`peft_nb.training.packing.plan` returned.
    folder : Path
        Where checkpoints go.
    publish : callable
        Takes each event.
    stop : StopFlag
        Read after every step and micro-batch.
    device : str
        ``cpu``, ``cuda`` or ``mps``.
    hooks : Hooks
        What the method wants done besides.
    draws : OwnDraws
        What the steps draw from, such as for dropout.
    most : int, optional
        Tokens in a micro-batch, at most: a size that was found to be fast.
    compiling : bool, default False
        Whether the blocks of the model are compiled while it trains.
    again : sequence of sequence of Example
        The training examples as the second epoch reads them, the third, and so on; then the first come again.

    Attributes
    ----------
    elapsed_before : float
        Training seconds before this start, when resuming.
    memory_mb : float
        The highest that was logged.
    evaluation_s, after_s : float
        What an evaluation takes, as expected or as the last one took; what comes after the last one.
    accuracies : dict of int to float or None
        By step of an evaluation, the share of the eval tokens that greedy decoding would find; None for other tasks.
    sample : callable
        Called after each evaluation with the step and the seconds of training so far.
    samples_alone : bool
        Whether it is called also where there is no evaluation set.
    logged : list of dict
        What the objective measured of the steps beside the loss, by logs.
    measures : dict of int to dict
        By step of an evaluation, what the objective measured beside the loss.
    fault : str
        Why the training broke off with a loss or a gradient that is not finite; empty where it did not.
    """

    def __init__(
        self,
        model: PeftModel,
        spec: RunSpec,
        objective: Objective,
        examples: Sequence[Any],
        eval_examples: Sequence[Any],
        steps: list[list[int]],
        folder: Path,
        publish: Callable[[Event], None],
        stop: StopFlag,
        device: str,
        hooks: Hooks,
        draws: OwnDraws,
        most: int | None = None,
        compiling: bool = False,
        again: Sequence[Sequence[Any]] = (),
    ) -> None:
        self.hooks, self.draws, self.compiling = hooks, draws, compiling
        self.spec, self.objective, self.examples, self.eval_examples = spec, objective, examples, eval_examples
        self.steps, self.folder, self.publish, self.stop = steps, folder, publish, stop
        self.elapsed_before = self.elapsed_s = 0.0
        self.again = again
        self.steps_per_epoch = math.ceil(len(examples) / spec.effective_batch_size)
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=1,
            per_device_train_batch_size=1,
            learning_rate=spec.learning_rate,
            lr_scheduler_type=spec.lr_scheduler_type,
            warmup_steps=spec.warmup(len(steps)),
            weight_decay=spec.weight_decay,
            max_grad_norm=spec.max_grad_norm,
            optim=optimizer.named(spec.optim, device, quantize.stored(model.get_base_model())),
            seed=spec.seed,
            logging_steps=spec.logging_steps,
            logging_first_step=True,
            logging_nan_inf_filter=False,
            eval_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=device == "cpu",
            ddp_backend="gloo" if device == "cpu" and processes() > 1 else None,
            ddp_find_unused_parameters=False,
            dataloader_pin_memory=False,
        )
        with transformers_private.unseeded():  # the generators of the process are the notebook's
            super().__init__(model=model, args=arguments, train_dataset=steps, callbacks=[_Conductor(self)])
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        room = probe.token_budget(model.get_base_model(), device_available_mb(device), device)
        self.budget = spec.token_budget or min(most or room, room)
        self.tokens, self.busy_s, self.steps_timed, self.memory_mb = 0, 0.0, 0, 0.0
        self.eval_losses: list[float] = []
        self.evaluation_s = self.after_s = 0.0
        self.accuracies: dict[int, float | None] = {}
        self.measures: dict[int, dict[str, float]] = {}
        self.logged: list[dict[str, float]] = []
        self.sample: Callable[[int, float], None] = lambda step, trained_s: None
        self.samples_alone = False
        self.fault = ""
        self._undo: list[tuple[torch.Tensor, torch.Tensor]] = []
        wanted = spec.load_best_model_at_end or spec.early_stopping_patience is not None
        self.best = Best(folder / "best", spec.early_stopping_patience) if wanted and eval_examples else None

    def create_optimizer(self, *args: Any) -> torch.optim.Optimizer:
        """As transformers makes it; a method may have parameters that learn faster than others."""
        made = super().create_optimizer(*args)
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        groups, made.param_groups = made.param_groups, []
        for group in groups:
            by_speed: dict[float, list[torch.nn.Parameter]] = {}
            for parameter in group["params"]:
                by_speed.setdefault(self.hooks.faster(names[parameter]), []).append(parameter)
            for speed, parameters in by_speed.items():
                made.param_groups.append({**group, "params": parameters, "lr": speed * group["lr"]})
        return made

    def get_train_dataloader(self) -> DataLoader:
        """Every process reads the same steps and takes its own share of each, so nothing is left to shard."""
        # Batches of one: resuming skips items only where there is a batch sampler.
        own = torch.Generator()  # or the loader would draw a seed that it does not need from the notebook's
        return DataLoader(self.steps, batch_size=1, collate_fn=itemgetter(0), generator=own)  # type: ignore[arg-type]

    def training_step(self, model: torch.nn.Module, inputs: list[int], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward over one optimizer step.

        Parameters
        ----------
        model : torch.nn.Module
            The wrapped model.
        inputs : list of int
            The rows of the step.
        num_items_in_batch
            Not used: the targets of the whole step are counted here.

        Returns
        -------
        torch.Tensor
            This process's part of the step's mean loss, times the number of processes.
        """
        start = time.perf_counter()
        model.train()
        batch = [self.read[row] for row in inputs]
        scale = self.args.world_size / self.objective.targets(batch)
        mine = share_of(batch, self.args.process_index, self.args.world_size)
        with self.drawing():
            begun = self.objective.begin(self.model, mine, self.budget, self.args.device)
        # A process without a row of its own still has to take part in the exchange of gradients, with one that does
        # not count.
        model.train(bool(mine))
        weight, learned = (scale, begun) if mine else (0.0, batch[:1])
        loss = self._forward_backward(model, learned, weight)
        while loss is None:
            loss = self._forward_backward(model, learned, weight)
        # Of several processes none stops alone: all see the gradient.
        if self._watched and self.args.world_size == 1 and not math.isfinite(loss):
            raise self._not_finite("loss", float(loss), inputs)
        self._inputs = inputs
        # Of several processes each has about its share.
        self.tokens += sum(one.cost for one in begun) * len(batch) // max(1, len(mine))
        self.busy_s += time.perf_counter() - start
        self.steps_timed += 1
        return loss

    @property
    def read(self) -> Sequence[Any]:
        """The examples as this epoch reads them."""
        epoch = self.state.global_step // self.steps_per_epoch % (1 + len(self.again))
        return self.again[epoch - 1] if epoch else self.examples

    @property
    def _watched(self) -> bool:
        """Whether this step's numbers are looked at: who looks waits for a GPU, and there only for those logged."""
        step, last = self.state.global_step + 1, len(self.steps)
        return self.args.device.type != "cuda" or step in (1, last) or step % self.spec.logging_steps == 0

    def _forward_backward(self, model: torch.nn.Module, batch: Sequence[Any], weight: float) -> torch.Tensor | None:
        """The step's loss, or ``None`` when memory ran out and the budget was halved; gradients start at zero."""
        total = torch.zeros((), device=self.args.device)
        cut = self._cut(batch)
        try:
            for index, micro in enumerate(cut):
                if self.stop.now.is_set():
                    raise Abandoned
                last = index == len(cut) - 1
                noise = neftune.noisy(self.model, self.spec.neftune_noise_alpha, micro, self.draws)
                drawing = nullcontext() if self.compiling else self.drawing()  # what draws is not compiled
                with nullcontext() if last else self.accelerator.no_sync(model), drawing, noise:
                    loss = self.objective.loss(model, micro, self.args.device) * weight
                    penalty = self.hooks.penalty(self.model) if last else None
                    self.accelerator.backward(loss if penalty is None else loss + penalty)
                total += loss.detach()
        except RuntimeError as error:
            self._halve_budget(error, cut)
        else:
            return total
        model.zero_grad()
        return None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as Trainer does; where a loss or a gradient is not finite, go back to the last adapter that was good.

        Raises
        ------
        RunError
            If there is no such adapter.
        """
        try:
            return super().train(*args, **kwargs)
        except NotFinite as error:
            self.fault = str(error)
            self._go_back()
        finally:
            self._undo = []

    def _go_back(self) -> None:
        self.model.zero_grad()
        if self._undo:
            for parameter, before in self._undo:
                parameter.data.copy_(before)
            self.state.global_step -= 1
        if not self._trained_finite():
            if not (last := checkpoint.latest(self.folder)):
                raise RunError(f"{self.fault}; there is no checkpoint to go back to")
            self._load_from_checkpoint(str(last))
            self.hooks.restore(self.model, checkpoint.load_method(last))
            self.state.global_step = checkpoint.step_of(last)

    def remember(self) -> None:
        """Keep what is trained as it is before an update, where that takes little memory."""
        trained = [one for one in self.model.parameters() if one.requires_grad]
        if sum(one.nbytes for one in trained) <= UNDO_BYTES:
            self._undo = [(one, one.detach().clone()) for one in trained]

    def _trained_finite(self) -> bool:
        return all(bool(one.isfinite().all()) for one in self.model.parameters() if one.requires_grad)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        if self._watched and norm is not None and not math.isfinite(norm):
            self._undo = []  # the update before was good: its loss is a number
            raise self._not_finite("gradient", float(norm), self._inputs)
        return norm

    def _not_finite(self, what: str, value: float, inputs: Sequence[int]) -> NotFinite:
        """Say of what and on which rows a step is not finite."""
        guilty = [row for row in inputs if not self._finite_alone(row)] if self.args.world_size == 1 else []
        numbers = getattr(self.examples, "rows", range(len(self.examples)))
        rows = ", ".join(str(number) for number in sorted({int(numbers[row]) for row in guilty or inputs}))
        on = f"on row{'s' * (',' in rows)} {rows} (counting from 0)"
        advice = f"lower learning_rate (now {self.spec.learning_rate:g}), or look at what these rows hold"
        return NotFinite(f"the {what} of step {self.state.global_step + 1:,} is {value} {on}; {advice}")

    def _finite_alone(self, row: int) -> bool:
        """Whether loss and gradients of one example are finite."""
        self.model.zero_grad()
        micro = self._cut([self.read[row]])
        loss = torch.stack([self.objective.loss(self.model, some, self.args.device) for some in micro]).sum()
        loss.backward()
        gradients = (one.grad for one in self.model.parameters() if one.grad is not None)
        return bool(loss.isfinite()) and all(bool(one.isfinite().all()) for one in gradients)

    def drawing(self) -> AbstractContextManager[Any]:
        """Where a model draws, as a first step shows, a context in which it draws from the run's own generators."""
        return self.draws if self.draws.drew or not self.tokens else nullcontext()

    def _cut(self, batch: Sequence[Any]) -> list[list[Any]]:
        return self.objective.cut(batch, self.budget)

    def _halve_budget(self, error: RuntimeError, cut: list[list[Any]]) -> None:
        """Make room for another try after memory ran out on a cut, or raise what cannot be fixed so."""
        if not out_of_memory(error) or self.args.world_size > 1:
            raise error
        tokens = max(sum(one.cost for one in micro) for micro in cut)
        if all(len(micro) == 1 for micro in cut):
            fix = "lower max_length, turn on gradient_checkpointing, or take a smaller model"
            raise RunError(f"memory ran out on a single example of {tokens:,} tokens; {fix}") from error
        self.budget = max(1, min(self.budget, tokens) // 2)
        self.publish(Notice(f"memory ran out: micro-batches are cut at {self.budget:,} tokens from here on"))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Publish what :meth:`measured` finds, or only what there is to show."""
        if not self.eval_examples:
            self.sample(self.state.global_step, self.busy_s)
            return {}
        self.evaluated(metrics := self.measured())
        return metrics

    def measured(self) -> dict[str, float]:
        """Mean loss on the evaluation examples; all processes share the work.

        Returns
        -------
        dict of str to float
            ``eval_loss`` in nats per supervised token or labelled text; ``token_accuracy``, where tokens are learned
            the share that greedy decoding would find, else NaN; and what the objective measures.
        """
        mine = share_of(self.eval_examples, self.args.process_index, self.args.world_size)
        if self.state.global_step:
            self.publish(Preparing(f"evaluating on {len(self.eval_examples):,} rows"))
        began = time.perf_counter()
        give_back_memory()  # or it would come on top of what the steps have freed, in pieces too small for it
        self.model.eval()
        rows = self._scores(self.objective.begin(self.model, mine, self.budget, self.args.device))
        self.model.train()
        self.evaluation_s = time.perf_counter() - began
        if self.args.world_size > 1:
            rows = [some for share in gathered([some.cpu() for some in rows]) for some in share]
        found = torch.cat(rows)
        loss, right, targets = found[:, :3].sum(0).tolist()
        metrics = {"eval_loss": loss / targets, "token_accuracy": right / targets}
        metrics |= self.objective.summary(found[:, 3:])
        if not math.isfinite(metrics["eval_loss"]):
            step = self.state.global_step
            at = f"after step {step:,}" if step else "of the base model, before any training,"
            advice = f"lower learning_rate (now {self.spec.learning_rate:g})" if step else "try dtype: float32"
            raise NotFinite(f"the eval loss {at} is {metrics['eval_loss']}; {advice}")
        return metrics

    def evaluated(self, metrics: dict[str, float]) -> None:
        """Publish what :meth:`measured` found, and keep what is best."""
        step, loss = self.state.global_step, metrics["eval_loss"]
        accuracy = metrics["token_accuracy"] if math.isfinite(metrics["token_accuracy"]) else None
        self.eval_losses.append(loss)
        self.accuracies[step] = accuracy
        self.measures[step] = {
            name: one for name, one in metrics.items() if name not in ("eval_loss", "token_accuracy")
        }
        self.publish(Evaluated(step, loss, accuracy))
        if self.measures[step]:
            self.publish(Scored(step, self.measures[step]))
        self.sample(step, self.busy_s)
        if self.best and step:
            self._compare(self.best, loss)

    @property
    def left_s(self) -> float:
        """Seconds until the run has ended, with the evaluations and what comes after them."""
        step, last = self.state.global_step, len(self.steps)
        every = self.spec.eval_steps or self.steps_per_epoch
        evaluations = (last // every - step // every + bool(last % every)) * bool(self.eval_examples)
        pace = self.busy_s / self.steps_timed if self.steps_timed else 0.0
        return (last - step) * pace + evaluations * self.evaluation_s + self.after_s

    def _compare(self, best: Best, loss: float) -> None:
        """Keep the best adapter, and end the training when there has been no better one for long."""
        try:
            best.offer(self.state.global_step, loss, self._save_best if self.args.should_save else None)
        except StoreError as error:
            self.publish(Notice(f"the best adapter so far is not kept: {error}"))
        if best.exhausted and self.state.global_step < len(self.steps):
            self.control.should_training_stop = self.control.should_log = True
            step = f"{best.step:,}"
            self.publish(Notice(f"stopped early: the eval loss has not fallen below that of step {step} since"))

    def _save_best(self, folder: Path) -> None:
        self._save(str(folder))
        checkpoint.save_method(self.hooks.state(self.model), folder)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train: the last step is done, or more of them are of no use."""
        early = self.best is not None and self.best.exhausted
        return not self.fault and (early or self.state.global_step == len(self.steps))

    def load_best(self) -> None:
        """Go back to the adapter of the lowest eval loss, where it is kept and is not the present one."""
        if self.best and self.best.step not in (0, self.state.global_step):
            self._load_from_checkpoint(str(self.best.folder))
            self.hooks.restore(self.model, checkpoint.load_method(self.best.folder))

    def _scores(self, batch: Sequence[Any]) -> list[torch.Tensor]:
        """What the objective says of each example, by micro-batches."""
        found: list[torch.Tensor] = []
        for micro in self._cut(batch):
            if self.stop.now.is_set():
                raise Abandoned
            rows = None
            try:
                rows = self.objective.scores(self.model, micro, self.args.device)
            except RuntimeError as error:
                self._halve_budget(error, [micro])
            # Only here has the error gone, and with it what it held of the memory that was short.
            found += self._scores(micro) if rows is None else [rows]
        return found

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any = None) -> None:
        """A checkpoint gets its final name only when it is complete; a full disk does not end the training."""
        step = self.state.global_step
        final, staging = self.folder / f"checkpoint-{step}", self.folder / f".staging-{step}"
        self.args.output_dir = str(staging)
        try:
            super()._save_checkpoint(model, trial)
            if self.args.world_size > 1:
                dist.barrier()
            if self.args.should_save:
                flush(staging)
                (staging / final.name).replace(final)
                checkpoint.keep_newest(self.folder, self.spec.save_total_limit)
                self.publish(Checkpointed(step, str(final)))
        except (OSError, SafetensorError) as error:
            if self.args.world_size > 1:
                raise
            shutil.rmtree(staging, ignore_errors=True)
            self.publish(Notice(f"no checkpoint after step {step}: {error}; free some space, training goes on"))
        finally:
            self.args.output_dir = str(self.folder)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model)
            model.save_pretrained(output_dir, state_dict=state_dict, save_embedding_layers=False)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        adapter_weights.restore(self.model, resume_from_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            checkpoint.save_optimizer(self.optimizer.state_dict(), Path(output_dir))
            checkpoint.save_schedule(self.lr_scheduler.state_dict(), Path(output_dir))
            checkpoint.save_method(self.hooks.state(self.model), Path(output_dir))
        return None

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        if folder is None or self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_optimizer_and_scheduler(folder)
        self.optimizer.load_state_dict(checkpoint.load_optimizer(Path(folder)))
        self.lr_scheduler.load_state_dict(checkpoint.load_schedule(Path(folder)))
        self.hooks.restore(self.model, checkpoint.load_method(Path(folder)))
        return None

    def _save_rng_state(self, output_dir: str) -> None:
        states = gathered(self.draws.state())  # of other machines too, whose disks are their own
        if self.args.should_save:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            for rank, state in enumerate(states):
                checkpoint.save_random(state, Path(output_dir), rank)

    def _load_rng_state(self, folder: str | None) -> None:
        if folder is not None:
            self.draws.restore(checkpoint.load_random(Path(folder), self.args.process_index))

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> None:
        return None

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: the inputs of a step are row numbers."""
        return 0

    def num_examples(self, dataloader: DataLoader) -> int:
        """Number of steps, which is what this Trainer's data set holds."""
        return len(self.steps)


class _Conductor(TrainerCallback):
    """Decides after every step what is due, and turns Trainer's logs into events."""

    def __init__(self, trainer: PlannedTrainer) -> None:
        self.trainer = trainer
        self.last_saved = self.last_trimmed = time.monotonic()
        self.tokens, self.busy_s = 0, 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started = self.last_saved = time.monotonic()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.remember()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.hooks.stepped(self.trainer.model, state.global_step + 1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        trainer, spec = self.trainer, self.trainer.spec
        trainer.elapsed_s = trainer.elapsed_before + time.monotonic() - self.started
        last = state.global_step == len(trainer.steps)
        if time.monotonic() - self.last_trimmed > TRIM_SECONDS:
            trim_memory()
            self.last_trimmed = time.monotonic()
        control.should_training_stop = stopping = agreed(trainer.stop.soon.is_set()) or last
        every = spec.eval_steps or trainer.steps_per_epoch
        due = bool(trainer.eval_examples) or trainer.samples_alone
        control.should_evaluate = due and (last or state.global_step % every == 0)
        due = time.monotonic() - self.last_saved > CHECKPOINT_SECONDS
        if spec.save_steps is not None:
            due = state.global_step % spec.save_steps == 0
        control.should_save = agreed(due) or (stopping and not last)
        control.should_log |= stopping
        if control.should_save:
            self.last_saved = time.monotonic()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Trainer looks at these once more after the last step, which has been dealt with.
        control.should_evaluate = control.should_save = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        trainer, logs = self.trainer, logs or {}
        if "loss" not in logs:
            return
        memory_mb = device_memory_mb(args.device.type)
        trainer.memory_mb = max(trainer.memory_mb, memory_mb)
        tokens, busy = trainer.tokens - self.tokens, trainer.busy_s - self.busy_s
        self.tokens, self.busy_s = trainer.tokens, trainer.busy_s
        trainer.publish(
            StepLogged(
                step=state.global_step,
                epoch=state.global_step / trainer.steps_per_epoch,
                loss=logs["loss"],
                learning_rate=logs["learning_rate"],
                grad_norm=logs.get("grad_norm", math.nan),
                tokens_per_second=tokens / busy if busy else math.nan,
                memory_mb=memory_mb,
                elapsed_s=trainer.elapsed_s,
                host_memory_mb=process_memory_mb() if args.device.type == "cuda" else None,
            )
        )
        if measured := trainer.objective.logged():
            trainer.logged.append(measured)
            trainer.publish(Scored(state.global_step, measured))
        trainer.publish(TimeLeft(trainer.left_s))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch failed for want of memory: on a GPU it has a class of its own, on the CPU only a message."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
