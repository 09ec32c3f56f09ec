//! Keys of items and messages that carry meaning, keys that may be ignored without a word, and misspellings of the former.

use std::path::Path;

/// The keys of a question and of an answer, in the order in which messages list them.
pub(crate) const QUESTIONS: [&str; 5] = ["question", "query", "prompt", "input", "instruction"];
pub(crate) const ANSWERS: [&str; 4] = ["answer", "response", "output", "completion"];

/// Keys of an item that are read in every format.
pub(crate) const SHARED: [&str; 9] =
    ["tools", "functions", "documents", "chat_template_kwargs", "system", "system_prompt", "train", "loss", "weight"];

/// Where an item comes from, which nothing can use. Ignored without a word.
const PROVENANCE: [&str; 39] = [
    "_id",
    "author",
    "category",
    "conversation_hash",
    "conversation_id",
    "created",
    "created_at",
    "data_source",
    "dataset",
    "dataset_name",
    "date",
    "domain",
    "hash",
    "id",
    "idx",
    "index",
    "key",
    "lang",
    "language",
    "license",
    "meta",
    "metadata",
    "model",
    "num_turns",
    "origin",
    "prompt_id",
    "question_id",
    "source",
    "sources",
    "split",
    "tags",
    "timestamp",
    "timestamps",
    "topic",
    "uid",
    "updated_at",
    "url",
    "uuid",
    "version",
];

/// Pictures and sounds, which no model of text sees.
pub(crate) const MEDIA: [&str; 6] = ["audio", "audios", "image", "images", "video", "videos"];

/// Why a key with pictures or sounds must not be ignored.
pub(crate) const TEXT_ALONE: &str = "holds pictures or sounds, and only text is trained on; remove it with what is said of it in the text";

/// Fields of a message that templates read or that identify it. None is a misspelling.
const MESSAGE_FIELDS: [&str; 6] = ["name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning"];

/// Names that other tools give to `train`, with other values or another meaning.
const OTHER_TRAIN_NAMES: [&str; 16] = [
    "calculate_loss",
    "ignore_loss",
    "is_train",
    "learn",
    "loss_mask",
    "loss_scale",
    "loss_weight",
    "mask",
    "masked",
    "sample_weight",
    "supervised",
    "train_detail",
    "train_on_turn",
    "trainable",
    "training",
    "weights",
];

pub(crate) const TRAIN_NAMES: [&str; 3] = ["train", "loss", "weight"];

/// All keys that a format reads, and those by which it is recognized.
pub(crate) const ALL: [&str; 34] = [
    "answer",
    "chat_template_kwargs",
    "chosen",
    "completion",
    "context",
    "conversations",
    "documents",
    "functions",
    "history",
    "input",
    "instruction",
    "label",
    "loss",
    "message_tree_id",
    "messages",
    "output",
    "parent_id",
    "prompt",
    "query",
    "question",
    "rejected",
    "replies",
    "response",
    "role",
    "system",
    "system_prompt",
    "text",
    "tools",
    "train",
    "weight",
    // Near misses, so that they are refused.
    "trian",
    "wieght",
    "weights",
    "loss_mask",
];

/// A warning about the columns of a table that nothing reads.
pub(crate) fn unused_columns(file: &Path, columns: &[String]) -> Option<String> {
    let named: Vec<String> = columns.iter().filter(|name| !is_provenance(name)).map(|name| format!("{name:?}")).collect();
    (!named.is_empty()).then(|| {
        format!("{}: the columns {} are not used; remove them, or name their meaning with columns", file.display(), named.join(", "))
    })
}

/// Whether a key may be ignored without a word.
pub(crate) fn is_provenance(key: &str) -> bool {
    PROVENANCE.binary_search(&key).is_ok()
}

/// Why a field must not be ignored: it says what is trained on, in a way that is not understood. A misspelling has the value of a flag.
pub(crate) fn train_misspelled(key: &str, is_flag: bool) -> Option<String> {
    if key.len() > 20 || TRAIN_NAMES.contains(&key) {
        return None;
    }
    let lower = key.to_ascii_lowercase();
    if OTHER_TRAIN_NAMES.binary_search(&lower.as_str()).is_ok() {
        return Some(format!("{key:?} is not understood; to say what is trained on, write \"train\": true or false"));
    }
    let alike = |name: &&'static str| {
        is_flag && lower.as_bytes().first() == name.as_bytes().first() && strsim::damerau_levenshtein(name, &lower) <= 1
    };
    let near = TRAIN_NAMES.into_iter().find(alike)?;
    Some(format!("is {key:?} misspelled? Write {near:?}, or rename the key"))
}

/// Whether a field of a message needs no closer look.
pub(crate) fn is_plain_field(key: &str) -> bool {
    MESSAGE_FIELDS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_near_misses_of_the_flags_are_found() {
        assert!(PROVENANCE.is_sorted() && OTHER_TRAIN_NAMES.is_sorted());
        for wrong in ["trian", "Train", "trains", "wieght", "WEIGHT", "los", "losss", "loss_mask", "trainable"] {
            assert!(train_misspelled(wrong, true).is_some(), "{wrong}");
        }
        for other in ["brain", "name", "boss", "height", "role"] {
            assert_eq!(train_misspelled(other, true), None);
        }
        assert_eq!(train_misspelled("trait", false), None);
    }
}
