"""The student, the prompt files and the teacher index: are they there, and do they fit?"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import DictConfig
from pyarrow import ArrowException

from algo.errors import ConfigurationError, TeacherIndexError
from algo.grading.ground_truth import can_grade, known_sources, needs_math_verify
from algo.methods.registry import method_of
from algo.paths import absolute
from algo.ropd.settings import RopdSettings
from algo.teacher.coverage import require_answers
from ropd_verl.checks.finding import Finding, Subject, note, ok, warning

TRAIN_COLUMNS = ("prompt", "data_source")
VAL_COLUMNS = ("prompt", "data_source", "reward_model")
_GRADED = ["data_source", "reward_model"]


def example(subject: Subject) -> Iterable[Finding]:
    """The example that prepares the run's inputs is here; says nothing for a run without one."""
    check_example(subject.config)
    return ()


def student(subject: Subject) -> Iterable[Finding]:
    model = subject.config.actor_rollout_ref.model
    check_model(model.path, template=model.get("custom_chat_template"))
    if model.use_fused_kernels and not _ties_embeddings(model.path):
        raise ConfigurationError(
            f"actor_rollout_ref.model.use_fused_kernels=true: {model.path} has an output layer of "
            "its own, on which verl's sharded kernels fail; set it to false"
        )
    shape = subject.shape
    size = "" if shape is None else f", {shape.parameters / 1e9:.2f} billion parameters"
    yield ok(f"{model.path} loads{size}; its tokenizer has a chat template")


def data(subject: Subject) -> Iterable[Finding]:
    config = subject.config
    train = check_data(config.data.train_files, "data.train_files", TRAIN_COLUMNS)
    if config.trainer.val_before_train or config.trainer.test_freq > 0:
        val = check_data(config.data.val_files, "data.val_files", VAL_COLUMNS)
        never = "validate never: trainer.test_freq=-1 and trainer.val_before_train=false"
        check_gradable(val, "data.val_files", never)
    yield ok(f"{_rows(train):,} training prompts")


def run_length(subject: Subject) -> Iterable[Finding]:
    """The prompts fill at least one batch, and the epochs all steps."""
    config = subject.config
    train = _readable_prompts(subject)
    if train is None:
        yield note("not compared: the training prompts cannot be read")
        return
    rows = _rows(train)
    epoch = rows // config.data.train_batch_size
    steps, epochs = config.trainer.total_training_steps, config.trainer.total_epochs
    if epoch == 0:
        raise ConfigurationError(
            f"data.train_files hold {rows} prompts, data.train_batch_size is "
            f"{config.data.train_batch_size}: a step is never full; lower it or add prompts"
        )
    if steps is not None and epoch * epochs < steps:
        yield warning(
            f"{rows:,} prompts make {epoch} steps an epoch: trainer.total_epochs={epochs} ends the "
            f"run after {epoch * epochs} of {steps} steps",
            f"set trainer.total_epochs={-(-steps // epoch)}, or lower trainer.total_training_steps",
        )
    yield ok(f"{epoch} steps an epoch, {epoch * epochs if steps is None else steps} in all")


def _rows(files: Iterable[Path]) -> int:
    return sum(pq.ParquetFile(path).metadata.num_rows for path in files)


def _readable_prompts(subject: Subject) -> list[Path] | None:
    """The training files, or None where the check `data` finds fault with them."""
    try:
        return check_data(subject.config.data.train_files, "data.train_files", TRAIN_COLUMNS)
    except ConfigurationError:
        return None


def teacher_index(subject: Subject) -> Iterable[Finding]:
    if not method_of(subject.settings).needs_teachers(subject.settings):
        yield note(f"not needed: {subject.settings.method.name} shows no teacher answers")
        return
    train = _readable_prompts(subject)
    if train is None:
        yield note("not compared: the training prompts cannot be read")
        return
    prompt_key = subject.select("data.prompt_key") or "prompt"  # verl's default
    check_teacher_index(subject.settings, train, prompt_key)
    yield ok(f"m={subject.settings.teacher_answers} answers for every training prompt")


def ground_truth(subject: Subject) -> Iterable[Finding]:
    """Every training prompt has a right answer and a rule that compares with it, where rollouts are
    graded; says nothing for any other method."""
    if not method_of(subject.settings).needs_ground_truth(subject.settings):
        return
    train = _readable_prompts(subject)
    if train is None:
        yield note("not compared: the training prompts cannot be read")
        return
    method = subject.settings.method.name
    check_gradable(train, "data.train_files", f"train by another method than {method}")
    yield ok("every training prompt can be graded")


def skipped_inputs(subject: Subject) -> Iterable[Finding]:
    """Stands in for the checks of this module when an example makes the inputs itself."""
    method, settings = method_of(subject.settings), subject.settings
    made = ["student", "data"]
    made += ["teacher index"] if method.needs_teachers(settings) else []
    made += ["judge"] if method.roles(settings) else []
    listed = f"{', '.join(made[:-1])} and {made[-1]}"
    yield note(f"{subject.config.example.hook} makes {listed} at the start")


def check_example(config: DictConfig) -> None:
    """Raise `ConfigurationError` where ``example.hook`` cannot be imported."""
    if config.get("example") is None:
        return
    hook = config.example.hook
    try:
        found = find_spec(hook) is not None
    except ModuleNotFoundError:  # the hook's own package
        found = False
    if not found:
        raise ConfigurationError(
            f"example.hook={hook} is not here: the example is part of the repository and is not "
            "installed with the package; clone the repository and start from it"
        )


def check_model(path: str, *, template: str | None = None) -> None:
    """The student's configuration and tokenizer load, and the tokenizer knows how to chat."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"actor_rollout_ref.model.path={path}: {_one_line(error)}; give a directory in "
            "Hugging Face format or a hub name that this machine can reach"
        ) from None
    if not (template or tokenizer.chat_template):
        raise ConfigurationError(
            f"actor_rollout_ref.model.path={path}: its tokenizer has no chat template; set "
            "actor_rollout_ref.model.custom_chat_template"
        )


def _ties_embeddings(path: str) -> bool:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(path).get_text_config().tie_word_embeddings


def check_data(files: str | Iterable[str] | None, key: str, columns: Iterable[str]) -> list[Path]:
    """Every file is there, is parquet, has rows and the columns that verl reads."""
    if files is None:
        raise ConfigurationError(f"{key} is not set: name a parquet file, or a list of them")
    paths = [absolute(f) for f in ([files] if isinstance(files, str) else files)]
    for path in paths:
        if not path.is_file():
            raise ConfigurationError(
                f"{key}={path}: no such file; `ropd data prepare` makes it, or correct {key}"
            )
        try:
            header = pq.ParquetFile(path)
        except (ArrowException, OSError) as error:
            raise ConfigurationError(
                f"{key}={path}: not a parquet file ({_one_line(error)})"
            ) from None
        missing = [c for c in columns if c not in header.schema_arrow.names]
        if missing:
            raise ConfigurationError(
                f"{key}={path}: column {', '.join(missing)} is missing (found: "
                f"{', '.join(header.schema_arrow.names)}); `ropd data prepare` writes them"
            )
        if header.metadata.num_rows == 0:
            raise ConfigurationError(f"{key}={path}: the file has no rows")
    return paths


def check_gradable(paths: Iterable[Path], key: str, instead: str) -> None:
    """A rule grades every row: one that none does would end the run when its answer is graded.

    ``instead`` is what to do where rows shall stay as they are."""
    for path in paths:
        for row, values in enumerate(pq.read_table(path, columns=_GRADED).to_pylist()):
            source = values["data_source"]
            if not isinstance(source, str) or not can_grade(source):
                raise ConfigurationError(
                    f"{key}={path}: no rule grades row {row}, whose data_source is {source!r}; "
                    f"begin it with one of {', '.join(known_sources())} (`ropd data prepare ... "
                    f"--data-source NAME`), leave such rows out of {key}, or {instead}"
                )
            truth = values["reward_model"]
            truth = truth.get("ground_truth") if isinstance(truth, dict) else None
            if truth is None or not str(truth).strip():
                raise ConfigurationError(
                    f"{key}={path}: row {row} has no reward_model.ground_truth to be graded by; "
                    "`ropd data check --validation FILE` lists all such rows"
                )
            if needs_math_verify(source) and find_spec("math_verify") is None:
                raise ConfigurationError(
                    f"{key}={path}: grading {source!r} needs the package math-verify: install the "
                    "extra `math` (pip install 'ropd[math]')"
                )


def check_teacher_index(
    settings: RopdSettings, train_files: list[Path], prompt_key: str = "prompt"
) -> None:
    """The index holds m usable answers for every training prompt."""
    if settings.teacher_index is None:
        raise ConfigurationError(
            "ropd.teacher_index is not set: build one with `ropd teacher build` and give its path"
        )
    try:
        require_answers(
            absolute(settings.teacher_index), train_files, settings.teacher_answers, prompt_key
        )
    except TeacherIndexError as error:
        raise ConfigurationError(f"ropd.teacher_index: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
