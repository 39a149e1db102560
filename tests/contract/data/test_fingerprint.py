"""One prompt, one fingerprint: from parquet, from verl's data set class, and from the builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from algo.data.fingerprint import prompt_fingerprint
from algo.data.prompt_file import read_prompts

pytest.importorskip("verl")

content = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=60)
chat = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"])})
    .flatmap(lambda message: content.map(lambda text: {**message, "content": text}))
    .flatmap(lambda m: st.sampled_from([m, {**m, "name": "n"}])),
    min_size=1,
    max_size=3,
)


def verl_rows(file: Path, cache: Path) -> list[dict[str, Any]]:
    """The rows as verl's trainer sees them, and as its collate function packs them."""
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn

    config = OmegaConf.create(
        {"cache_dir": str(cache), "filter_overlong_prompts": False, "prompt_key": "prompt"}
    )
    dataset = RLHFDataset(data_files=[str(file)], tokenizer=None, config=config)  # type: ignore[arg-type]
    rows = [dataset[i] for i in range(len(dataset))]
    packed = collate_fn([dict(row) for row in rows])["raw_prompt"]
    assert isinstance(packed, np.ndarray)
    return [{**row, "packed": packed[i]} for i, row in enumerate(rows)]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(chat, min_size=1, max_size=4))
def test_verl_and_the_builder_agree(
    tmp_path_factory: pytest.TempPathFactory, chats: list[list[dict[str, str]]]
) -> None:
    folder = tmp_path_factory.mktemp("verl")
    file = folder / "train.parquet"
    rows = [{"prompt": messages, "data_source": "x"} for messages in chats]
    pq.write_table(pa.Table.from_pylist(rows), file)
    expected = [prompt_fingerprint(messages) for messages in chats]
    assert [prompt.fingerprint for prompt in read_prompts(file)] == expected
    seen = verl_rows(file, folder / "cache")
    assert [prompt_fingerprint(row["raw_prompt"]) for row in seen] == expected
    assert [prompt_fingerprint(row["packed"]) for row in seen] == expected
