"""What a Ray Train worker does for a stage that learns from rows: rows, trainer, artifact."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from posttrain.cluster.train_workers import FAILURE_FILE, is_first_rank, use_threads
from posttrain.cluster.trainers import STOP_FILE
from posttrain.heavy_imports import lean_imports
from posttrain.ports import Tracker
from posttrain.stages.jobs import OfflineJob

TRAINERS = {  # what imports TRL
    "sft": "posttrain.train.sft_trainer",
    "reward_model": "posttrain.train.pair_trainer",
    "preference": "posttrain.train.pair_trainer",
}


def train_offline(config: Mapping[str, Any]) -> None:
    """Raises InputError (rows that do not fit) and StageFailed (numbers that are not finite)."""
    job: OfflineJob = config["job"]
    use_threads(job.threads)
    with lean_imports():
        import_module(TRAINERS[job.kind])
    {"sft": _sft, "reward_model": _reward_model, "preference": _preference}[job.kind](
        job, config["tracker"]
    )


def _sft(job: OfflineJob, tracker: Tracker) -> None:
    from posttrain.checkpoint.folders import CommittedFolders
    from posttrain.stages.sft_rows import render_rows
    from posttrain.train.sft import run_sft

    report = _report(job, tracker, is_first_rank())
    rows = render_rows(job.model_path, job.data, job.max_tokens, job.seed, report)
    _tell(report, tracker)
    directory = Path(job.directory)
    run_sft(
        _settings(job),
        rows,
        tracker,
        (directory / STOP_FILE).exists,
        CommittedFolders(directory / "checkpoints"),
    )


def _preference(job: OfflineJob, tracker: Tracker) -> None:
    from posttrain.algorithms import needs_of
    from posttrain.checkpoint.folders import CommittedFolders
    from posttrain.config.plugins import load_plugin, plugin_config
    from posttrain.train.preference import run_preference

    settings = _settings(job)
    module = load_plugin("algorithm", job.algorithm.name, job.algorithm.base_dir)
    needs = needs_of(module, plugin_config(module, job.algorithm.settings))
    directory = Path(job.directory)
    run_preference(
        settings,
        _pairs(job, settings, tracker, is_first_rank()),
        tracker,
        (directory / STOP_FILE).exists,
        CommittedFolders(directory / "checkpoints"),
        has_reference=needs.reference,
    )


def _reward_model(job: OfflineJob, tracker: Tracker) -> None:
    """The members of this worker's share; a worker that is alone puts the ensemble together."""
    import ray.train

    from posttrain.checkpoint.folders import CommittedFolders
    from posttrain.train.reward_models import EnsembleShare, finish_ensemble, train_members

    context = ray.train.get_context()
    share = EnsembleShare(job.members, context.get_world_rank(), context.get_world_size())
    settings = _settings(job)
    pairs = _pairs(job, settings, tracker, share.rank == 0)
    directory = Path(job.directory)
    outcome = train_members(
        settings,
        pairs,
        share,
        tracker if share.rank == 0 else _OfMembers(tracker),
        # Where one worker has failed the stage has: the others need not train on.
        lambda: (directory / STOP_FILE).exists() or (directory / FAILURE_FILE).exists(),
        lambda member: CommittedFolders(directory / "checkpoints" / f"member-{member}"),
    )
    if outcome == "done" and share.ranks == 1:
        finish_ensemble(directory, job.members, tracker)


class _OfMembers:
    """A tracker for workers beside the first: their steps have the numbers of its steps, so they
    tell only what is by member.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def log(self, metrics: Mapping[str, float], **axes: float) -> None:
        own = {
            name: value
            for name, value in metrics.items()
            if name[:3] == "rm/" and name[3:4].isdigit()
        }
        if own:
            self._tracker.log(own, **axes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)


def put_together(job: OfflineJob, tracker: Tracker) -> None:
    """The ensemble of members that several workers have trained. Runs in a process of its own."""
    from posttrain.train.reward_models import finish_ensemble

    finish_ensemble(Path(job.directory), job.members, tracker)


def _pairs(job: OfflineJob, settings: Any, tracker: Tracker, is_first: bool) -> Any:
    """The comparisons, or judged answers; the first worker tells which rows were left out."""
    from posttrain.stages.judged_rows import render_judged
    from posttrain.stages.pair_rows import render_pairs

    report = _report(job, tracker, is_first)
    objective = settings.objective
    of_job = job.model_path, job.data, job.max_tokens, job.seed
    if objective.judged:
        pairs = render_judged(*of_job, report_to=report)
    else:
        pairs = render_pairs(
            *of_job,
            answers=objective.answers,
            revision_prompt=objective.revision_prompt,
            report_to=report,
            augment=job.augment,
        )
    _tell(report, tracker)
    if is_first and pairs.left_out:
        tracker.event("comparisons-left-out", text=pairs.words, counts=dict(pairs.left_out))
    return pairs.pairs


def _settings(job: OfflineJob) -> Any:
    from posttrain.config.plugins import load_plugin, plugin_config
    from posttrain.train.offline import OfflineSettings

    algorithm = load_plugin("algorithm", job.algorithm.name, job.algorithm.base_dir)
    return OfflineSettings(
        directory=Path(job.directory),
        model_path=job.model_path,
        objective=algorithm.objective(plugin_config(algorithm, job.algorithm.settings)),
        batch_rows=job.batch_rows,
        tokens_per_micro_batch=job.tokens_per_micro_batch,
        steps=job.steps,
        epochs=job.epochs,
        holdout_rows=job.holdout_rows,
        seed=job.seed,
        precision=job.precision,
        lora=job.lora,
        restraints=job.restraints,
        early_stopping=job.early_stopping,
    )


def _report(job: OfflineJob, tracker: Tracker, is_first: bool) -> str | None:
    """Where to write which rows overlap with questions; the first worker alone writes."""
    from posttrain.prompts.decontamination import REPORT_FILE

    tracker.event("waiting", text="reading and rendering the rows")
    return str(Path(job.directory) / REPORT_FILE) if is_first else None


def _tell(report: str | None, tracker: Tracker) -> None:
    from posttrain.prompts.decontamination import tell_left_out

    if report is not None:
        tell_left_out(Path(report), tracker)
