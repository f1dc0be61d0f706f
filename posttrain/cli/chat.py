"""`posttrain chat`: ask a trained model something; several models answer side by side."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from posttrain.cli.run import RUNS_DIR, RunsDir
from posttrain.errors import InputError, Problem, RewardBroken

HELP = "/score REWARD ANSWER   /other MODEL   /help   /quit"


@dataclass(frozen=True, slots=True)
class Speaker:
    """A loaded model."""

    name: str
    model: Any
    tokenizer: Any


def chat(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="RUN/STAGE or model folders; the newest run's best where not given."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1)] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, help="0 gives the likeliest answer.")
    ] = 0.0,
    runs_dir: RunsDir = RUNS_DIR,
) -> int:
    """Talk to a model. Reads lines from a pipe as well: echo '12+30=' | posttrain chat"""
    import warnings

    warnings.filterwarnings("ignore")
    speakers = [_load(path) for path in _folders(runs_dir, models or [])]
    interactive = sys.stdin.isatty()
    _introduce(speakers)
    while True:
        try:
            line = input("you> " if interactive else "").rstrip("\n")
        except EOFError:
            return 0
        if line in ("/quit", "/q"):
            return 0
        if line.startswith("/"):
            speakers = _command(line, speakers, runs_dir)
        elif line:
            for speaker in speakers:
                _answer(speaker, line, max_new_tokens, temperature, len(speakers) > 1)


def model_folder(runs_dir: Path, name: str | None) -> Path:
    """The model folder that a person means by RUN, RUN/STAGE or a path; None is the newest model
    that was recommended, by no run that was only to see whether it runs. Raises InputError.
    """
    from posttrain.config import measurement, smoke
    from posttrain.track.run_view import find_run

    if name is not None and (Path(name) / "config.json").exists():
        return Path(name)

    def has_learnt(run: Path) -> bool:
        is_trial = run.name.endswith((smoke.SUFFIX, measurement.SUFFIX))
        return not is_trial and (run / "best" / "config.json").exists()

    place = find_run(runs_dir, name, rather=has_learnt)
    if place.stage_directory is not None:
        folder = place.stage_directory / "model"
    else:
        folder = place.directory / "best"
    if not (folder / "config.json").exists():
        what = "has no model" if place.stage else "has recommended no model yet"
        raise InputError(
            Problem(
                "no-model",
                what,
                path=str(place.stage_directory or place.directory),
                help=f"name a stage: posttrain chat {place.directory.name}/STAGE",
            )
        )
    return folder.resolve()


def _folders(runs_dir: Path, names: list[str]) -> list[Path]:
    if not names:
        return [model_folder(runs_dir, None)]
    return [model_folder(runs_dir, name) for name in names]


def _load(folder: Path) -> Speaker:
    from posttrain.model.load import load_model, load_tokenizer

    stage = folder.parent.parent.name if folder.name == "model" else folder.name
    return Speaker(stage, load_model(folder, None, attention="sdpa"), load_tokenizer(folder))


def _introduce(speakers: list[Speaker]) -> None:
    for speaker in speakers:
        size = sum(p.numel() for p in speaker.model.parameters()) / 1e6
        taught = _taught(speaker)
        print(f"{speaker.name}, {size:.1f} M parameters{taught}", file=sys.stderr)
    print(HELP, file=sys.stderr)


def _taught(speaker: Speaker) -> str:
    """What a micro model knows is little: say so before it is asked for more."""
    if len(speaker.tokenizer) > 100:
        return ""
    return ", was taught: copy, reverse, sort, count, + and -. Try: 12+30= or sort dbca="


def _command(line: str, speakers: list[Speaker], runs_dir: Path) -> list[Speaker]:
    words = line.split(maxsplit=2)
    if words[0] == "/other" and len(words) > 1:
        try:
            return [*speakers, _load(model_folder(runs_dir, words[1]))]
        except InputError as error:
            print(error.problems[0].render())
    elif words[0] == "/score" and len(words) == 3:
        _score(words[1], words[2])
    else:
        print(HELP)
    return speakers


def _score(name: str, rest: str) -> None:
    """`/score arithmetic 42 = 42`: the right answer, `=`, the answer to judge."""
    from posttrain.config.plugins import load_plugin, plugin_config
    from posttrain.reward.protocol import Example, score_one

    right, _, given = rest.partition("=")
    row = {"answer": right.strip(), "task": f"microworld/{name}"}
    example = Example(row, given.strip() or right.strip())
    try:
        module = load_plugin("reward", name, Path.cwd())
        score = score_one(module, example, plugin_config(module, {}))
    except InputError as error:
        print(error.problems[0].render())
        return
    except RewardBroken as error:
        print(f"     {name} cannot tell: {error.message}")
        return
    because = f": {score.reason}" if score.reason else ""
    print(f"     {name} → {score.value:g}{because}")


def _answer(
    speaker: Speaker, question: str, max_new_tokens: int, temperature: float, named: bool
) -> None:
    import torch

    from posttrain.model.chat import end_of_turn_ids, render_prompt

    prompt = render_prompt({"prompt": question}, speaker.tokenizer)
    room = speaker.model.config.max_position_embeddings - len(prompt.token_ids)
    if room < 1:
        print("     (longer than the model's context)")
        return
    sampling = (
        {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    )
    with torch.no_grad():
        output = speaker.model.generate(
            torch.tensor([prompt.token_ids]),
            attention_mask=torch.ones(1, len(prompt.token_ids), dtype=torch.long),
            max_new_tokens=min(max_new_tokens, room),
            eos_token_id=list(end_of_turn_ids(speaker.tokenizer)) or None,
            pad_token_id=speaker.tokenizer.pad_token_id or 0,
            return_dict_in_generate=True,
            output_scores=True,
            **sampling,
        )
    ids = output.sequences[0, len(prompt.token_ids) :]
    nats = [
        float(torch.log_softmax(scores[0].float(), -1)[token])
        for scores, token in zip(output.scores, ids, strict=True)
    ]
    text = speaker.tokenizer.decode(ids, skip_special_tokens=True)
    name = f"{speaker.name}: " if named else ""
    print(f"     {name}{text}          {len(ids)} tokens, sure {math.exp(sum(nats)):.2f}")
