//! What the findings of `check` mean for a training: the second paragraph of each on the page that `html` writes.

/// Words of a sentence, and what it means. The first that fits counts.
const WARNINGS: [(&str, &str); 15] = [
    (
        "also trained on",
        "The model has seen these answers, so their loss falls whether or not it learns anything general. A comparison of two trainings by \
         such a loss prefers the one that memorizes more.",
    ),
    (
        "identical to an earlier one",
        "A repeated conversation counts as often as it occurs, and is memorized sooner than others. drop_duplicates keeps the first of each.",
    ),
    (
        "the text of a special token",
        "As a special token it would end the turn in the middle of a message. It is therefore split into ordinary tokens, which is right \
         if the words are about the token, and wrong if the data has markup of another template in it: then remove the markup.",
    ),
    (
        "these keys are not used",
        "Nothing reads these keys, so what they say has no effect on the training. A key with a meaning may be spelled in another way than \
         expected.",
    ),
    ("no words besides reasoning", "After such a training the model ends its turn at once where this prompt, or one like it, is given."),
    ("the words of the user before it", "Such rows come from a faulty conversion, where both columns were filled from one."),
    (
        "no token to train on",
        "A row without a target has no loss. Every assistant's turn in it has \"train\": false, or truncation removed the answer: \
         truncate_left keeps the last turns.",
    ),
    (
        "characters that are not printed",
        "Nobody sees them, but the tokenizer does: they split words into other tokens than usual, and the model learns to write them. U+FFFD \
         stands for a byte that some earlier program could not decode, so text is lost there.",
    ),
    ("does not show", "The chat template decides what the model sees. What it leaves out takes part in neither the prompt nor the loss."),
    ("in the words of an answer", "Templates recognize reasoning by these tags, wherever they stand."),
    (
        "a system message is empty",
        "A template that writes a default system prompt writes it only if the conversation has no system message, so an empty one changes \
         the prompt.",
    ),
    (
        "asks to train on turns of others",
        "The loss counts tokens that the model is to write. Turns of the user and of tools are given to it.",
    ),
    ("to show: ", "The index is beyond the last conversation. The statistics are not affected."),
    ("the columns", "Nothing reads these columns of the table, so what they say has no effect on the training."),
    ("is given twice", "Each of its conversations counts as often as the file is given."),
];

/// What a finding means. `class`: error, warning or note.
pub(crate) fn explanation(class: &str, sentence: &str) -> &'static str {
    match class {
        "error" => "Training refuses the data for this reason, before it loads any weight.",
        "note" => "This is converted without loss. It is only said so that nothing happens unseen.",
        _ => known(sentence).unwrap_or("Training accepts this, but it may be a mistake."),
    }
}

fn known(sentence: &str) -> Option<&'static str> {
    WARNINGS.iter().find(|(words, _)| sentence.contains(words)).map(|(_, meaning)| *meaning)
}
