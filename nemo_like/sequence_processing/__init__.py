"""Generation, log-probabilities and entropies of a causal language model, with and without gradients.

sequences      GenerationConfig, BatchedSequences, LogprobResults; prompt | response | padding
batches        rows into batches, halved where memory ends
memory         how much a batch may hold
weights        a model and its tokenizer by name
model          a model in whatever it is wrapped in; the head's input instead of logits
sampling       drawing tokens, each row from its own random numbers
stopping       StopAfterAnswer
generation     a prompt read once, its responses drawn together
logprobs       teacher forcing, chunk by chunk
figures        what a call amounts to, for a log
processor      SequenceProcessor
"""

from __future__ import annotations

from nemo_like.sequence_processing.processor import SequenceProcessor
from nemo_like.sequence_processing.sequences import BatchedSequences, GenerationConfig, LogprobResults
from nemo_like.sequence_processing.stopping import StopAfterAnswer

__all__ = ["BatchedSequences", "GenerationConfig", "LogprobResults", "SequenceProcessor", "StopAfterAnswer"]
