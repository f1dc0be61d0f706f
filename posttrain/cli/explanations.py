"""What each error means and how it is cured: one entry per code that is raised anywhere."""

from __future__ import annotations

# Mistakes in a pipeline file or on the command line
_FILE = {
    "bad-yaml": """The file is not YAML. Usual causes: a tab in the indentation, a key that stands
one column off its neighbours, an unclosed bracket or quotation mark. The line is where reading
had to stop; the slip is there or just above. Numbers like 3e-4 and words like `on` mean what they
look like.""",
    "duplicate-key": """The same key stands twice in one block. YAML would silently take the last.
Keep one.""",
    "unknown-key": """A key that means nothing in this place: misspelt, or one level too high or
too low. Settings of an algorithm stand inside `algorithm`, those of a batch inside `batch`.
`posttrain schema` writes a JSON schema from which editors complete keys.""",
    "missing-key": """A key that has no default is not there. The help line says what it
means.""",
    "bad-value": """The key exists, but not with this value: another type, out of its range, or
not one of the words allowed.""",
    "bad-name": """Names of stages and suites become folders and stand in gates before a dot
(`sft.arithmetic`), so they start with a letter and hold letters, digits, `_` and `-` only.""",
    "unknown-kind": """Each stage has a kind: model, sft, reward_model, preference, generate,
best_of_n, over_optimisation, online_rl, average or evaluate. It decides which other keys there
are.""",
    "bad-interpolation": """`${stages.sft.data}` stands for the value of another key,
`${oc.env:HOME}` for an environment variable. This one names nothing that is there, or itself.""",
    "empty-pipeline": """The file holds no keys at all. A pipeline has at least a name and
`stages`.""",
    "unknown-pipeline": """No pipeline of that name ships with posttrain, and no NAME.yaml lies in
the current folder. A path works too: posttrain run folder/mine.yaml""",
    "unknown-preset": """`uses:` names files in configs/ (`sft/pretrain`), `cluster:` files in
configs/cluster/ (`laptop`). A file of your own is named with its path: `uses: ./mine.yaml`.""",
    "bad-preset": """A preset is a plain piece of a stage or cluster: a YAML file with keys at its
top.""",
    "preset-cycle": """A preset names itself under `uses:`, directly or through another.""",
    "override-path": """`key=value` on the command line sets a dotted key of the file. This one
names no key, so it would change nothing. The help line shows the nearest key and its present
value.""",
    "override-syntax": """An override is key=value without spaces: stages.rlvr.steps=20. Lists and
blocks are quoted for the shell: 'stages.final.models=[base, sft]'.""",
    "usage": """A command or option that posttrain does not have. `-h` behind any command lists
its options.""",
    "file-exists": """`posttrain new` does not write over a file unless told to: --force.""",
    "bad-input": """Something in the input is wrong. Nothing was started.""",
}

# The graph, its plug-ins and gates
_GRAPH = {
    "unknown-stage": """A stage refers to another by name, and there is none of that name.""",
    "wrong-reference": """The stage named exists but makes something else than what is needed
here. evaluate, best_of_n and over_optimisation make measurements, reward_model makes reward models,
generate a set of answers, the others a model.""",
    "cycle": """Following what each stage needs leads back to where it began, so none of them
could start. To look at models while training, use a suite with `when: every_model`: questions are
not stages and never form a cycle.""",
    "bad-gate": """A gate compares a measure with a number or with an earlier stage: `arithmetic >
sft.arithmetic`, `tax < 4`, `perplexity/wikitext < 1.05 * base`. Shares count in points (0 to
100), perplexity as it is. A gate can name only stages that are done before its own, and tasks
that a suite asks.""",
    "gate-failed": """A gate said that a stage's result is not good enough to spend more on. The
stage is done and kept. A difference within the uncertainty is `undecided` and lets the run go on.
Exit code 3.""",
    "unknown-suite": """An evaluate stage asks a suite by its name under `suites:`, and
`data.decontaminate` compares rows with the questions of one. There is none of this name.""",
    "unknown-task": """A suite asks tasks by name: built-in ones, those it defines itself under
`tasks:`, or `lm_eval/NAME` for one of the lm-evaluation-harness, of which `lm_eval ls tasks` shows
all.""",
    "unused-task": """A suite defines a task, or says which of its numbers counts, and never asks
it: add it to `gain` or to `keep`.""",
    "no-lm-eval": """Tasks named `lm_eval/NAME` are those of the lm-evaluation-harness, an optional
extra: pip install 'posttrain[lm-eval]'. Only suites that ask such tasks need it.""",
    "harness-task": """A task of the lm-evaluation-harness that a suite cannot ask, or whose file or
data do not load. A suite counts means of numbers from 0 to 1 that are better when higher, one per
question: accuracies, exact matches. `lm_eval: {metrics: {hellaswag: acc_norm}}` says which number
of a task counts; `lm_eval: {tasks: FOLDER}` holds task files of your own, which may be changed
copies of the harness's. Tasks that run programs of a model's, look at pictures or score whole texts
are refused.""",
    "not-compared": """`data.decontaminate` compares rows with the questions of a suite's tasks.
Those of `lm_eval/...` tasks are the harness's own, and it does not say where they stand: rows that
hold them stay in. Give the suite a task with the same questions as its data to have them
compared.""",
    "empty-suite": """A suite without tasks measures nothing. Give it `gain`, `keep` or both. For
`data.decontaminate` it needs a task that asks questions: perplexity reads text.""",
    "untrained-tax-base": """The tax is what a model forgot since `tax_since`. Random weights know
nothing, so nothing could be lost since then: name the first trained model.""",
    "impossible-group": """GRPO and its relatives compare the answers to one prompt with one
another. With one answer per prompt every advantage is zero and nothing is learnt. Use
`batch.samples_per_prompt: 2` or more, or an algorithm with another baseline: remax (the greedy
answer), ppo (a critic), reinforce_pp and crpg (the whole batch).""",
    "charged-twice": """The same thing would be taken off twice. The KL to the starting model goes
either into the reward (`kl_in_reward`, as in PPO, ReMax and RLOO) or into the loss (`kl_in_loss`,
as in GRPO): set one of them to 0, also where the other is an algorithm's default. An unfinished
answer's score is either lowered or replaced.""",
    "unused-setting": """A setting that would silently do nothing beside the others. Weights of
tokens, and their bounds, exist only where `off_policy.proximal` is recompute or interpolate;
`low` only with `weights: mask` or `clamp`. `kl_target` moves `kl_in_reward`, which has to be above
0; `kl_estimator` is the loss's. With `lora` the reference is the policy with its adapters off:
nothing is left to keep or to offload. Averaging methods differ in which of `pre`, `weight_pre` and
`weights` they look at.""",
    "restraint-with-lora": """`start_penalty`, `half_fine_tuning` and `ema` are for stages that
train all weights. With `lora` these stay as they are, and what is trained is a product of two small
matrices: its distance to the start, its half, and its average are not those of the two matrices.
LoRA is a restraint by itself.""",
    "nothing-held-out": """`early_stopping` ends a stage where held-out rows say that it gets no
better. At most a fifth of the rows is held out, so it takes five rows, and `holdout_rows` above
0.""",
    "nothing-to-halve": """Half fine-tuning freezes half of each layer. It knows layers by the
number in their parameters' names (`model.layers.3.mlp.up_proj.weight`); this model has none.""",
    "nothing-to-interpolate": """`off_policy.proximal: interpolate` guesses the log-probs right
before a step from a token's age in versions. With `staleness: 0` every token has age 0, and the
guess is the behaviour policy itself.""",
    "too-many-optimiser-steps": """`batch.optimiser_steps` cuts a batch into parts of whole groups,
because the answers to one prompt are compared with one another. There cannot be more parts than
`batch.prompts`.""",
    "unknown-plugin": """Algorithms, rewards, averaging methods and selections are one file each. A
bare name is one that ships (`grpo`), `./my_reward.py` a file of yours, `package.module` something
installed.""",
    "plugin-broken": """The plug-in's file does not run: the line is where it stopped. Nothing of
it was used.""",
    "plugin-contract": """A plug-in's file has to hold a few names. Online algorithm: Config,
NEEDS, advantages, loss. Offline algorithm: Config, NEEDS, objective. Reward: Config, score,
gold, bad. Averaging: Config, NEEDS, merge. Selection: Config, COLUMNS, select. This is
a whole reward:""",
    "wrong-algorithm": """Online algorithms learn from answers sampled during training (kind:
online_rl), offline ones from rows that are there before (kind: sft, reward_model or
preference).""",
}

# Data and models
_DATA = {
    "missing-file": """There is no file or folder at that path. Paths in a pipeline file are
relative to that file (or else to the current folder), paths on the command line to the current
folder.""",
    "unknown-format": """Data is read from .jsonl, .jsonl.gz, .parquet and .csv files, or folders
of them.""",
    "unreadable-file": """The file is cut short, or is not what its ending says.""",
    "bad-row": """A row does not parse, or lacks a column that is needed. Lines count from 1.
`data.bad_rows: skip` leaves such rows out and counts them.""",
    "missing-column": """The rows have other columns than the stage needs. sft: prompt and
completion, or messages; online_rl: prompt, and what its reward reads; perplexity: text.
`data.columns: {prompt: question}` says which column of the file is meant.""",
    "empty-data": """There is not one row to use.""",
    "one-label": """All judged answers are good, or all are bad. What makes an answer good shows
only beside bad ones: give rows of both labels, or learn from the good ones alone in an sft
stage.""",
    "all-contaminated": """`data.decontaminate` leaves out rows whose prompts overlap with questions
of a suite, and here that is every row: the data is what the suite asks. Training on it would
measure memory.""",
    "unknown-source": """The micro world has a fixed list of sources; `microworld/arithmetic` is
one.""",
    "unknown-split": """A micro-world source has the splits train and test, which never share a
prompt.""",
    "unknown-data": """The hub has no data set of that name, or not for you.""",
    "hub-unreachable": """The hub did not answer, and the data is not in the local cache.
HF_HUB_OFFLINE=1 keeps posttrain from asking at all.""",
    "hub-data": """The hub has the data set, but not in this configuration, split or revision.""",
    "no-rows": """`show` prints the rows of sft, reward_model, preference and online_rl stages, and
this is none.""",
    "row-too-long": """A row has more tokens than fit: `max_tokens` of the stage, or the model's
context. `data.too_long: drop` leaves such rows out and counts them.""",
    "prompt-too-long": """A prompt and the longest answer together do not fit the model's context.
`data.too_long: drop` leaves such prompts out and counts them.""",
    "empty-prompt": """A prompt renders to no token at all, so there is nothing to continue.""",
    "unknown-model": """`from_scratch: micro` is the one model that is made from random weights.
Anything else is a folder or a hub name under `path`.""",
    "no-tiny-model": """`run --smoke` (or `tiny: true` on a model stage) makes a few small random
layers of the model's architecture, so that nothing large is fetched or trained. Architectures whose
other sizes depend on those made small cannot be built so: take the model's own weights with
`stages.NAME.tiny=false`, or a small model of the same family with `stages.NAME.path=...`.""",
    "no-model": """A model is a folder in Hugging Face form, with config.json, .safetensors
weights and a tokenizer. If it was given by a hub name, the hub has none of that name or did not
answer.""",
    "critic-without-rate": """With `lora` only small matrices of the policy learn, at a rate that
suits them, often ten times that of full training. A critic of its own has no adapters: all its
weights would learn at that rate. Give it `critic_lr`, or put it on the policy's last layer:
`critic: head`.""",
    "no-reward-model": """A folder that should hold a reward model, or an ensemble of them, holds
something else. A reward_model stage leaves `reward_models/`: a folder per member, each a
sequence-classification model of one label, and reward_models.json with what each says of held-out
comparisons.""",
    "no-known-prompts": """`fuse` averages scores over prompts that the ensemble was trained on, and
its folder has no prompts.safetensors to find them in: an ensemble trained before there was one, or
a copy of the members alone.""",
    "pool-too-small": """Best of n is estimated from a pool of answers to the same prompt, without
drawing again: n can be no more than the pool holds. Answers that a reward broke on are not in
it.""",
    "other-tokenizer": """Reward models score the tokens that the policy wrote, and averaged models
share their embeddings. Models of different families number their tokens differently, so what one
writes is gibberish to the other. Train the reward models from a model of the policy's own family:
the same `sft` stage is usual. Average models of one family.""",
    "no-critic": """`algorithm.critic` names a folder that holds no critic: that is a
sequence-classification model with one label (a reward model), or a causal language model, which
gets a new head. `policy` starts from the stage's own model, `head` puts a value on its last
layer.""",
    "no-weights": """The folder has a config.json but no .safetensors file. Pickled weights are
not read: they can run code.""",
    "weights-missing": """config.json asks for tensors that the files do not hold: a half-copied
folder, or another kind of model. Going on would train random numbers.""",
    "other-architecture": """Two models that have to be alike are not: an engine was started for
one architecture and was handed another, or models of two are to be averaged.""",
    "no-chat-template": """Rows with `messages`, and models asked in a chat, need a template that
says how turns are written. Shipped: plain, chatml, llama3, tulu; or give a .jinja file:
`chat_template: tulu`.""",
    "template-rewrites": """The template writes earlier turns differently once later ones follow
(dropping reasoning, for instance). A row then has no single text in which every answer could be
trained.""",
    "never-stops": """The end-of-turn token is in no trained part of any row. A model trained so
never learns to stop, and every answer would be cut at the limit.""",
    "shapes-differ": """Weights can be averaged only between models of the same shape: the same
base, the same number of added tokens, and the same tensors under the same names. Nothing was
written.""",
    "quantized-weights": """Quantized weights are stored as small whole numbers with scales beside
them. Averaging needs the numbers that they stand for: name the model that was quantized, average,
and quantize the result.""",
    "no-answers": """Some averaging methods look for their coefficients on answers of the trained
model. An online_rl stage leaves such; for any other model let a generate stage ask it, and name
that stage under `samples`.""",
}

# While it runs
_RUN = {
    "gold-not-one": """A reward has to score its own gold examples as it says it does. One that
fails on them would teach the model something else.""",
    "verifier-failing": """A verifier raised, hung or returned no number too often. Such answers
are never scored 0: they are tried again, then dropped and counted. Above the limit the stage
stops, because what is dropped is seldom dropped at random.""",
    "no-sandbox": """The reward runs code that the model wrote, and nothing here keeps that code
from the files, processes and network of the run. A sandbox needs Linux with namespaces: `bwrap` of
the package bubblewrap, or Linux 5.12 and the right to make user namespaces. Containers often take
that right away: give it back, or start them privileged. `allow_unsandboxed: true` in the reward's
settings runs the code all the same, with the rights of the run.""",
    "offload-spread": """`reference: offload` keeps the reference on the host and moves it to the
GPU whole while it is asked. Several trainers on GPUs spread it among them anyway, so that whole it
would take more room than it does. Keep it, or train adapters (`lora`): then there is none.""",
    "unknown-layer": """`lora.targets` names layers by their last name (q_proj, up_proj). Only
linear layers can get an adapter, and the output head cannot: it often shares its matrix with the
embedding.""",
    "rank-too-large": """An adapter is a pair of matrices, [rank, columns] and [rows, rank]. With a
rank above the smaller side of a layer's matrix it could do no more, and would cost more than
training the layer itself.""",
    "batch-too-small": """Every trainer needs at least one row of each optimiser step.""",
    "batch-not-divisible": """The rows of a step are dealt out evenly to the trainers, so their
number has to be a multiple of the number of trainers.""",
    "micro-batch-too-small": """One sequence alone may be longer than
`batch.tokens_per_micro_batch`, the tokens of one forward pass: in `online_rl` the longest prompt
with an answer of `sampling.max_new_tokens`, in `sft` the longest row. Sequences are never cut in
two, so raise it, or allow shorter answers.""",
    "too-few-prompts": """Each group of a step answers a prompt of its own, so `batch.prompts` can
be no more than the data has different prompts, less those that `heldout` keeps out of training.
The same prompt twice in a step would count double and teach nothing more. More
`samples_per_prompt` makes a step larger without more prompts.""",
    "bad-request": """vLLM did not accept a request. Its own words stand in the message.""",
    "engine-start": """A rollout engine did not start or died, more often than is tried again. The
log has vLLM's own words; on a CPU it is nearly always memory.""",
    "gpus-per-trainer": """A trainer is one process on one GPU. More GPUs make more trainers: they
share each batch, and in online stages the model's weights, gradients and optimiser too.""",
    "nccl-without-gpus": """`cluster.weight_sync: nccl` sends weights from the trainer's GPU
straight to those of the engines. Without GPUs on both sides use `shm`, a file in shared
memory, which needs trainer and engines on one host.""",
    "weights-differ": """After a weight update an engine holds other bytes than the trainer sent.
Its answers would be counted to a version that they do not come from, so they are set aside.""",
    "weights-gone": """A slow engine asked for weights whose file newer versions have replaced, or
that are sent to a group of engines that it is not in. It is told the newest version and takes that;
it never stops using the weights it has.""",
    "deadline": """One process waited for another longer than it may; the message says who for
whom. Nothing waits for ever.""",
    "no-cluster": """No Ray cluster answers at the address given. `run --address` wants HOST:PORT
of the cluster itself (6379 as a rule), `submit --address` that of its dashboard:
http://HOST:8265. Without --address `run` starts a local one.""",
    "too-much-to-send": """`posttrain submit` sends the files that the pipeline names, up to what
a Ray dashboard takes in one request. Large data and models are better put into a folder that all
nodes see: name them there, and add --shared FOLDER.""",
    "secret-in-file": """A key or password stands in the pipeline itself. Submitted, it would lie
readable in the run folder. Judges take the name of a variable (`api_key_env`); set the variable on
the cluster's nodes, or send it along with --env NAME.""",
    "unknown-job": """The cluster knows no job of that id. `posttrain submit` prints the id;
`ray job list` shows those that the cluster remembers.""",
    "does-not-fit": """A stage holds its engines and trainers at the same time, each engine and
trainer a CPU slot and its GPUs, and Ray would wait for ever for what is not there. It is told
before the first stage starts. `--wait-for-cluster 30m` waits for nodes that are still starting, and
asks a cluster that starts nodes by itself for them.""",
    "run-folder-unseen": """Checkpoints, and the rollouts that engines write for trainers to read,
are files in the run folder. So on a cluster it lies on a file system that all nodes mount at the
same path, and posttrain is installed on every node.""",
    "shm-across-hosts": """`cluster.weight_sync: shm` hands weights over as a file in one host's
shared memory, and an engine was placed on another host than its trainer. Containers count as hosts
unless they share /dev/shm. nccl sends weights over hosts, from GPU to GPU.""",
    "stage-failed": """A stage ended without its result. What was finished is kept; `posttrain
resume` goes on from its last checkpoint.""",
    "checkpoint-damaged": """The last checkpoint lacks a file or is cut short: probably a full
disk, or files removed by hand.""",
    "disk-too-small": """The run would fill the disk, so it was not started. `posttrain clean` says
what of earlier runs is no longer needed, and removes what its flags name.""",
    "run-in-use": """Another process is writing this run. Follow it with `posttrain status`, or
choose another name.""",
    "config-changed": """A stage of the run is done, or half done, with other settings than the file
has now. `resume --as-run` goes on with what was started; `run` does the changed stages from their
start.""",
    "unknown-run": """There is no run of that name under runs/.""",
    "run-unreadable": """The run's run.json is missing its stages, or is cut short. It says which
identity of each stage is in use, so without it nothing tells what `posttrain clean` may remove.""",
    "not-removed": """Something that `posttrain clean` was to remove is still there: it belongs to
another user, is a mount of its own, or lies behind a link, which is never followed. The run itself
is whole: each folder is moved aside in one step before it is removed, so what is left of one is in
a hidden folder of the run that the next `posttrain clean --leftovers` takes.""",
    "report-failed": """The report could not be written. The run itself is untouched: try
`posttrain report` again.""",
    "interrupted": """Stopped by Ctrl-C or a signal. What was finished is kept; `posttrain resume`
goes on. Exit code 130.""",
    "failed": """Something went wrong that has no name of its own. The message says what.""",
    "internal": """A bug of posttrain, not of yours. --traceback, or POSTTRAIN_TRACEBACK=1, shows
where.""",
}

EXPLANATIONS: dict[str, str] = _FILE | _GRAPH | _DATA | _RUN

# Shown as it stands below the explanation of that name.
EXAMPLES = {
    "plugin-contract": '''"""Right answers earn 1."""

from posttrain.config.strict import StrictModel
from posttrain.reward.protocol import Example
from posttrain.types import Score


class Config(StrictModel):
    """Settings; none here."""


def score(row, completion, config):
    return Score(float(completion.strip() == row["answer"]))


def gold(config):
    return [Example({"answer": "4"}, "4")]  # has to score 1


def bad(config):
    return [Example({"answer": "4"}, "5")]  # has to score less
''',
}
