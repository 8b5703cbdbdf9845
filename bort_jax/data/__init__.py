# SPDX-License-Identifier: Apache-2.0
"""Text in, batches out: corpora, tokenizers, token shards, masking, labelled tasks."""
