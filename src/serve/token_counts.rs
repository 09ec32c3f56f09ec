//! The tokens of an answer, read from its end while it passes: llama.cpp's last fields are the counts, whole and streamed.

/// Bytes of an answer's end that are kept.
const KEPT: usize = 16 << 10;

/// Keys of the counts, those of whole answers first. A text within a JSON string cannot contain them, because its quotes are escaped.
const PROMPT: [&[u8]; 3] = [b"\"prompt_tokens\":", b"\"input_tokens\":", b"\"tokens_evaluated\":"];
const COMPLETION: [&[u8]; 4] = [b"\"completion_tokens\":", b"\"output_tokens\":", b"\"tokens_predicted\":", b"\"predicted_n\":"];
/// The prompt is what was computed and what was known: by the timings at the end of a stream, and by Anthropic's names.
const COMPUTED: &[u8] = b"\"prompt_n\":";
const KNOWN: [&[u8]; 2] = [b"\"cache_n\":", b"\"cache_read_input_tokens\":"];

/// The end of an answer.
#[derive(Debug, Default)]
pub(crate) struct AnswerEnd(Vec<u8>);

impl AnswerEnd {
    /// Adds the next bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&bytes[bytes.len().saturating_sub(KEPT)..]);
        if self.0.len() > 2 * KEPT {
            self.0.drain(..self.0.len() - KEPT);
        }
    }

    /// The tokens of the prompt and of the answer, if both are known.
    pub(crate) fn counts(&self) -> Option<(u64, u64)> {
        let first = |keys: &[&[u8]]| keys.iter().find_map(|key| self.last(key));
        let [known, read] = KNOWN.map(|key| self.last(key).unwrap_or(0));
        let prompt = first(&PROMPT).map(|tokens| tokens + read).or_else(|| Some(self.last(COMPUTED)? + known))?;
        Some((prompt, first(&COMPLETION)?))
    }

    /// The number at the last place of a key.
    fn last(&self, key: &[u8]) -> Option<u64> {
        let at = memchr::memmem::rfind(&self.0, key)? + key.len();
        let digits: Vec<u8> = self.0[at..].iter().copied().skip_while(|byte| *byte == b' ').take_while(u8::is_ascii_digit).collect();
        std::str::from_utf8(&digits).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_at_the_end_and_not_in_texts() {
        for (text, wanted) in [
            (
                r#"{"choices":[{"message":{"content":"\"prompt_tokens\":9,"}}],"usage":{"completion_tokens":3,"prompt_tokens":5,"total_tokens":8}}"#,
                Some((5, 3)),
            ),
            ("data: {\"timings\":{\"cache_n\":30,\"prompt_n\":6,\"predicted_n\":12}}\n\ndata: [DONE]\n\n", Some((36, 12))),
            (r#"{"tokens_evaluated": 4, "tokens_predicted": 2}"#, Some((4, 2))),
            (r#"{"usage":{"cache_read_input_tokens":35,"input_tokens":1,"output_tokens":40}}"#, Some((36, 40))),
            (r#"{"tokens":[1,2]}"#, None),
            ("", None),
        ] {
            let mut end = AnswerEnd::default();
            end.push("x".repeat(3 * KEPT).as_bytes());
            for part in text.as_bytes().chunks(7) {
                end.push(part);
            }
            assert_eq!(end.counts(), wanted, "{text}");
        }
    }
}
