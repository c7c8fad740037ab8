"""Every key that transformers writes into the ``config.json`` of a BERT model, and its treatment.

Source: BertConfig and PreTrainedConfig of transformers 5.24, and of older versions back to
pytorch-transformers 1.0; configs of google-research/bert that were copied into such folders.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipelines.json_fields import HARMLESS, USED, Field, only

_ANOTHER = "use a model without it"

_USED = """
    vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act
    hidden_dropout_prob attention_probs_dropout_prob max_position_embeddings type_vocab_size
    initializer_range layer_norm_eps model_type architectures tie_word_embeddings id2label label2id
"""
_HARMLESS = """
    transformers_version dtype torch_dtype _name_or_path name_or_path _commit_hash model_name name
    language finetuning_task num_labels _num_labels task_specific_params tokenizer_class
    sentence_transformers sbert_ce_default_activation_function classifier_dropout
    chunk_size_feed_forward output_attentions output_hidden_states output_past return_dict
    use_return_dict use_cache gradient_checkpointing torchscript use_bfloat16 tf_legacy_loss
    xla_device attn_implementation _attn_implementation _attn_implementation_internal
    _attn_implementation_autoset _experts_implementation_internal experts_implementation
    pad_token_id bos_token_id eos_token_id sep_token_id decoder_start_token_id tie_encoder_decoder
    cross_attention_hidden_size pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
    pooler_size_per_head
"""
# Of text generation, which BERT does not do; older versions write them into every config.
_GENERATION = """
    max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty
    temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size
    encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores
    return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values
    exponential_decay_length_penalty suppress_tokens begin_suppress_tokens prefix
"""

# Keys of our own: the threshold of each class; the columns of text and pair in training.
THRESHOLDS, TEXT_COLUMNS = "label_thresholds", "text_columns"

CONFIG_FIELDS: Mapping[str, Field] = {
    **dict.fromkeys((*_USED.split(), THRESHOLDS, TEXT_COLUMNS), USED),
    **dict.fromkeys((_HARMLESS + _GENERATION).split(), HARMLESS),
    "problem_type": only(
        "regression",
        "single_label_classification",
        "multi_label_classification",
        remedy="correct it, or remove it: then the number of classes decides",
        is_used=True,
    ),
    "is_decoder": only(False, remedy=f"its attention is causal; {_ANOTHER}"),
    "is_encoder_decoder": only(False, remedy=f"BERT has no decoder; {_ANOTHER}"),
    "add_cross_attention": only(False, remedy=f"BERT has no decoder; {_ANOTHER}"),
    "position_embedding_type": only(
        "absolute", remedy=f"BERT has absolute positions; {_ANOTHER}", is_used=True
    ),
    "directionality": only("bidi", remedy=f"BERT attends in both directions; {_ANOTHER}"),
    "pooler_type": only(
        "first_token_transform", remedy=f"the pooler reads the first token; {_ANOTHER}"
    ),
    "pruned_heads": only(
        {}, [], remedy="its layers have different numbers of heads; use the model before pruning"
    ),
    "quantization_config": only(
        remedy="its weights are quantized; write them as float32 with transformers:"
        " model.dequantize(), then model.save_pretrained(NEW)"
    ),
    "auto_map": only(
        {},
        remedy="the model has code of its own, which is never executed; if its encoder is plain"
        " BERT, remove auto_map from the file",
    ),
    "feed_forward_type": only("original", remedy=f"BERT's layers have one linear map; {_ANOTHER}"),
}
