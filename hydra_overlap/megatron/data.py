"""Tokens: real text as bytes, written once with megatron-core's IndexedDatasetBuilder and read through its GPTDataset.

`prepare` runs in the parent, before ranks start; `microbatches` in every rank. Which sample goes to which microbatch
depends on the step alone, never on the layout: rank r of DP size D takes, in microbatch m of a step, the samples
(m x D + r) x micro_batch_size onwards. So runs with different layouts see the same data in the same steps.

data.held_out keeps the end of the text from training, in a file of its own: no training sample can reach into it.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from ..errors import LaunchError
from ..launch import text_files
from ..launch.plan import Plan, known
from ..rules.trn import VOCABULARY
from ..schema.nodes import Data
from . import batches

EOD = 256  # end of document, after the 256 byte values
FORMAT = "bytes-1"  # changes when the same text would be written differently
TRAIN, HELD_OUT = "text", "held_out"  # names of the .bin and .idx files


class ByteTokenizer:
    """What GPTDataset asks a tokenizer for: sizes and special tokens. Bytes are their own tokens."""

    vocab_size = VOCABULARY
    eod = EOD
    unique_identifiers: ClassVar = {"class": "ByteTokenizer", "format": FORMAT}  # part of the index cache's name


def prepare(plan: Plan) -> str | None:
    """Tokenise the plan's text unless that was done before; -> prefix of the .bin and .idx file, None for mock data.

    The folder is named for its content and appears whole or not at all: it is written beside its place and renamed.
    Raises LaunchError for missing text and a text too short for one sample. With data.held_out a second pair of files lies beside the first.
    """
    files = text_files.require(plan)
    if not files:
        return None
    request = plan.request
    limit = request.data.max_bytes
    documents, size = _read(files, limit)
    if size < known(request.model.seq_length) + 1:
        raise LaunchError(
            "The text is too short for one sample",
            where=[f"model.seq_length={request.model.seq_length}", f"data.max_bytes={limit or 'null'}"],
            why=f"{len(files)} file(s) hold {size} tokens; a sample takes seq_length + 1.",
            fixes=_longer(request.data, size),
        )
    parts = {TRAIN: documents}
    digest = hashlib.sha256(FORMAT.encode())
    for document in documents:
        digest.update(hashlib.sha256(document).digest())
    if request.data.held_out:
        parts = _divided(plan, documents, size)
        digest.update(f"held out: {sum(map(len, parts[HELD_OUT]))}".encode())
    folder = text_files.cache_dir(plan) / digest.hexdigest()[:16]
    if not folder.exists():
        try:
            _write(folder, parts)
        except OSError as error:
            raise text_files.unwritable(plan, f"{folder.parent}: {error.strerror or error}.") from error
    return str(folder / TRAIN)


def _longer(data: Data, size: int) -> Iterator[tuple[str, str]]:
    """Ways to a text that is longer than one sample."""
    if size > 1:
        yield f"model.seq_length={max(1, (size - 1) // 2)}", "shorter samples"
    yield from _more_text(data)


def _more_text(data: Data) -> Iterator[tuple[str, str]]:
    if data.max_bytes is not None:
        yield "data.max_bytes=null", "all of the text"
    if data.kind != "stdlib":
        yield "data=stdlib data.files=[]", "more text"


def _divided(plan: Plan, documents: list[bytes], size: int) -> dict[str, list[bytes]]:
    """The text before and from the place where the held-out share begins, which may be within a document."""
    share, least = plan.request.data.held_out, known(plan.request.model.seq_length) + 1
    kept = max(0, round(size * (1 - share)))
    if min(kept, size - kept) < least:
        enough = round(least / size + 0.005, 2)
        raise LaunchError(
            "Training or held-out text is too short for one sample",
            where=[f"data.held_out={share}", f"model.seq_length={plan.request.model.seq_length}"],
            why=f"The text has {size} tokens, {size - kept} of them held out; a sample takes seq_length + 1.",
            fixes=[
                *([(f"data.held_out={enough}", "a sample or more")] if enough < 0.5 else []),
                *_more_text(plan.request.data),
                ("data.held_out=0 training.eval_interval=null", "no validation"),
            ],
        )
    before: list[bytes] = []
    while documents and kept >= len(documents[0]) + 1:
        before.append(documents[0])
        kept -= len(documents[0]) + 1
        documents = documents[1:]
    if kept:
        before.append(documents[0][:kept])
        documents = [documents[0][kept:], *documents[1:]]
    return {TRAIN: before, HELD_OUT: [document for document in documents if document]}


def _read(files: list[Path], limit: int | None) -> tuple[list[bytes], int]:
    """Contents of the files up to `limit` bytes in all, empty ones left out; and their size in tokens."""
    documents: list[bytes] = []
    size = 0
    for file in files:
        content = file.read_bytes()
        if limit is not None:
            content = content[: limit - size + len(documents)]  # the end-of-document tokens do not count
        if content:
            documents.append(content)
            size += len(content) + 1
    return documents, size


def _write(folder: Path, parts: dict[str, list[bytes]]) -> None:
    import numpy
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, documents in parts.items():
            builder = IndexedDatasetBuilder(str(beside / f"{name}.bin"), dtype=numpy.uint16)
            for document in documents:
                tokens = numpy.append(numpy.frombuffer(document, dtype=numpy.uint8).astype(numpy.uint16), EOD)
                builder.add_document(tokens, [len(tokens)])
            builder.finalize(str(beside / f"{name}.idx"))
        os.rename(beside, folder)
    except OSError:
        if not folder.exists():  # else another run wrote the same text at the same time
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def dataset(plan: Plan, num_samples: int) -> Any:
    """GPTDataset (or MockGPTDataset) of at least `num_samples` samples to train on. Every rank calls it.

    Rank 0 builds the index. A sample is tokens, labels, loss_mask and position_ids, each [seq_length].
    """
    return _build(plan, plan.data_prefix, [num_samples, 0, 0])


def held_out(plan: Plan) -> Any:
    """Dataset of the samples of a validation loss: the held-out text; of mock data a split of its own. Every rank calls it."""
    prefix, training = plan.data_prefix, plan.request.training
    return _build(
        plan,
        None if prefix is None else str(Path(prefix).with_name(HELD_OUT)),
        [0, training.eval_iters * known(training.global_batch_size), 0],
    )


def _build(plan: Plan, prefix: str | None, sizes: list[int]) -> Any:
    """The one dataset with a size among those of the splits train, validation and test."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig, MockGPTDataset

    config = GPTDatasetConfig(
        random_seed=plan.request.training.seed,
        sequence_length=plan.request.model.seq_length,
        blend=None if prefix is None else ([prefix], None),
        split=None if prefix is None else ",".join("1" if size else "0" for size in sizes),
        path_to_cache=None if prefix is None else str(Path(prefix).parent / "index"),
        tokenizer=ByteTokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    kind = MockGPTDataset if prefix is None else GPTDataset
    built = BlendedMegatronDatasetBuilder(kind, sizes, lambda: True, config).build()
    return next(one for one, size in zip(built, sizes, strict=True) if size)


def microbatches(plan: Plan, samples: Any, steps_done: int = 0) -> Iterator[dict[str, Any]]:
    """Batches of this rank after `steps_done` steps, one per microbatch: tokens, labels, loss_mask, position_ids [b, s]."""
    for _, batch in batches.steps(plan.request.training, steps_done):
        yield from _of_this_rank(plan, samples, batch.first, batch.size)


def validation_microbatches(plan: Plan, samples: Any) -> Iterator[dict[str, Any]]:
    """Batches of this rank for one validation loss, one per microbatch. samples: of `held_out`."""
    training = plan.request.training
    yield from _of_this_rank(plan, samples, 0, training.eval_iters * known(training.global_batch_size))


def _of_this_rank(plan: Plan, samples: Any, first: int, count: int) -> Iterator[dict[str, Any]]:
    import torch
    from megatron.core import parallel_state

    rank, ranks = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    size = plan.request.training.micro_batch_size
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    for start in range(first + rank * size, first + count, ranks * size):
        batch = [samples[index] for index in range(start, start + size)]
        yield {name: torch.stack([sample[name] for sample in batch]).to(device) for name in batch[0]}
