//! Splits text into words as Qwen's pre-tokenizers do.
//!
//! The patterns are those of `tokenizer.json` (transformers' `tokenization_qwen2.py` and `tokenization_qwen3_5.py` have the same).
//! They are matched by hand: at each position the first matching alternative wins, and no alternative looks back.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

use crate::data::tokenizer::byte_classes::{BLOCK, ByteClasses, key};

/// Qwen1.5, 2, 2.5 and 3.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen3.5: combining marks belong to the letters before them.
const QWEN35: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A known pre-tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Qwen2,
    Qwen35,
}

impl Pattern {
    /// The pattern of a regular expression; `None` for an unknown one, which needs the tokenizers library.
    pub(crate) fn of(regex: &str) -> Option<Pattern> {
        match regex {
            QWEN2 => Some(Pattern::Qwen2),
            QWEN35 => Some(Pattern::Qwen35),
            _ => None,
        }
    }

    pub(crate) fn from_number(number: u64) -> Option<Pattern> {
        [Pattern::Qwen2, Pattern::Qwen35].into_iter().find(|pattern| *pattern as u64 == number)
    }

    /// Character classes that count as letters.
    fn letters(self) -> u8 {
        match self {
            Pattern::Qwen2 => LETTER,
            Pattern::Qwen35 => LETTER | MARK,
        }
    }
}

const LETTER: u8 = 1;
const NUMBER: u8 = 2;
const SPACE: u8 = 4;
const NEWLINE: u8 = 8;
const MARK: u8 = 16;

/// Character classes, one byte per code point.
static CLASSES: LazyLock<Box<[u8]>> = LazyLock::new(|| {
    let mut classes = vec![0u8; 0x11_0000].into_boxed_slice();
    for (pattern, bit) in [(r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE), (r"[\r\n]", NEWLINE), (r"\p{M}", MARK)] {
        let hir = regex_syntax::parse(pattern).expect("the pattern is fixed");
        let HirKind::Class(Class::Unicode(ranges)) = hir.kind() else { unreachable!("a class of characters") };
        for range in ranges.ranges() {
            for class in &mut classes[range.start() as usize..=range.end() as usize] {
                *class |= bit;
            }
        }
    }
    classes
});

/// Iterates over the words of a text.
pub(crate) struct WordIter<'a> {
    text: &'a [u8],
    classes: &'static [u8],
    ascii: &'static [u8; 256],
    letters: u8,
    at: usize,
}

impl<'a> WordIter<'a> {
    pub(crate) fn new(text: &'a str, pattern: Pattern) -> WordIter<'a> {
        let ascii = CLASSES.first_chunk().expect("more than a million code points");
        WordIter { text: text.as_bytes(), classes: &CLASSES, ascii, letters: pattern.letters(), at: 0 }
    }

    /// Class and length of the character at `at`, which must be within the text.
    #[inline]
    fn peek(&self, at: usize) -> (u8, usize) {
        let first = self.text[at];
        if first < 0x80 { (self.ascii[first as usize], 1) } else { self.peek_wide(at) }
    }

    #[inline(never)]
    fn peek_wide(&self, at: usize) -> (u8, usize) {
        let first = self.text[at];
        let tail = |i: usize| u32::from(self.text[at + i] & 0x3F);
        let (point, length) = match first {
            0xC0..=0xDF => (u32::from(first & 0x1F) << 6 | tail(1), 2),
            0xE0..=0xEF => (u32::from(first & 0x0F) << 12 | tail(1) << 6 | tail(2), 3),
            _ => (u32::from(first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4),
        };
        (self.classes[point as usize], length)
    }

    /// The end of the run of characters from `at` whose class matches `wanted`.
    #[inline]
    fn run(&self, mut at: usize, wanted: impl Fn(u8) -> bool) -> usize {
        while at < self.text.len() {
            let (class, length) = self.peek(at);
            if !wanted(class) {
                break;
            }
            at += length;
        }
        at
    }

    /// The length of `'s`, `'t`, `'re`, `'ve`, `'m`, `'ll` or `'d` at `at`, in any case; 0 for none.
    fn contraction(&self, at: usize) -> usize {
        let lower = |i: usize| self.text.get(at + i).map_or(0, u8::to_ascii_lowercase);
        match (lower(1), lower(2)) {
            (b's' | b't' | b'm' | b'd', _) => 2,
            // The last is the long s (U+017F), an s in another case.
            (b'r' | b'v', b'e') | (b'l', b'l') | (0xC5, 0xBF) => 3,
            _ => 0,
        }
    }

    /// The end of the whitespace word at `at`.
    fn space(&self, at: usize) -> usize {
        let (mut end, mut last, mut behind_newline) = (at, at, None);
        while end < self.text.len() {
            let (class, length) = self.peek(end);
            if class & SPACE == 0 {
                break;
            }
            last = end;
            end += length;
            if class & NEWLINE != 0 {
                behind_newline = Some(end);
            }
        }
        match behind_newline {
            Some(place) => place,
            // The last whitespace before a word belongs to that word.
            None if end < self.text.len() && last > at => last,
            None => end,
        }
    }
}

impl<'a> WordIter<'a> {
    /// The next word and its key. A word of up to 15 bytes has as key those bytes, zeros and its length as the sixteenth byte; others have 0.
    #[inline]
    pub(crate) fn next_key(&mut self) -> Option<(&'a [u8], u128)> {
        let start = self.at;
        if start >= self.text.len() {
            return None;
        }
        // Most words are found by classifying sixteen bytes at once.
        let Some(block) = self.text.get(start..start + BLOCK) else {
            let word = self.next()?;
            let mut block = [0; BLOCK];
            if word.len() < BLOCK {
                block[..word.len()].copy_from_slice(word);
            }
            return Some((word, key(u128::from_le_bytes(block), word.len())));
        };
        let block = u128::from_le_bytes(block.try_into().expect("sixteen bytes"));
        let length = ByteClasses::of(block).word(block as u8);
        let word = if length > 0 {
            self.at = start + length;
            &self.text[start..start + length]
        } else {
            self.next()?
        };
        Some((word, key(block, word.len())))
    }
}

impl<'a> Iterator for WordIter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        if start >= self.text.len() {
            return None;
        }
        let (class, length) = self.peek(start);
        let letters = self.letters;
        let behind = start + length;
        let next = if behind < self.text.len() { self.peek(behind).0 } else { NEWLINE };
        let other = |class: u8| class & (SPACE | NUMBER | letters) == 0;
        self.at = 'end: {
            if self.text[start] == b'\'' {
                let length = self.contraction(start);
                if length > 0 {
                    break 'end start + length;
                }
            }
            if class & letters != 0 || (class & (NEWLINE | NUMBER) == 0 && behind < self.text.len() && next & letters != 0) {
                break 'end self.run(behind, |class| class & letters != 0);
            }
            if class & NUMBER != 0 {
                break 'end behind;
            }
            if other(class) || (self.text[start] == b' ' && behind < self.text.len() && other(next)) {
                let end = self.run(behind, other);
                break 'end self.run(end, |class| class & NEWLINE != 0);
            }
            self.space(start)
        };
        Some(&self.text[start..self.at])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn splitting_by_blocks_and_by_characters_agree(text in r"([a-zA-Z]{1,20}|[ '\r\n\t0-9_.(é中\u{301}\u{a0}\u{0}\u{b}\u{1f}\u{7f}]| {1,18}|[-=.]{1,18}\n*){0,60}") {
            for pattern in [Pattern::Qwen2, Pattern::Qwen35] {
                let mut words = WordIter::new(&text, pattern);
                let blocks: Vec<_> = std::iter::from_fn(|| words.next_key()).collect();
                prop_assert_eq!(blocks.iter().map(|(word, _)| *word).collect::<Vec<_>>(), WordIter::new(&text, pattern).collect::<Vec<_>>());
                for (word, key) in blocks {
                    let mut bytes = [0; 16];
                    if word.len() < 16 {
                        bytes[..word.len()].copy_from_slice(word);
                        bytes[15] = word.len() as u8;
                    }
                    prop_assert_eq!(key, u128::from_le_bytes(bytes));
                }
            }
        }
    }

    fn words(text: &str, pattern: Pattern) -> Vec<&str> {
        WordIter::new(text, pattern).map(|word| std::str::from_utf8(word).unwrap()).collect()
    }

    #[test]
    fn words_are_split_as_the_pattern_says() {
        for (text, wanted) in [
            ("Hello  world", vec!["Hello", " ", " world"]),
            ("it's I'LL 'x", vec!["it", "'s", " I", "'LL", " '", "x"]),
            ("a1 23", vec!["a", "1", " ", "2", "3"]),
            ("x \n\n y", vec!["x", " \n\n", " y"]),
            ("end  ", vec!["end", "  "]),
            (" !!\n\nz", vec![" !!\n\n", "z"]),
            ("\t\tif", vec!["\t", "\tif"]),
            ("你好，世界", vec!["你好", "，世界"]),
        ] {
            assert_eq!(words(text, Pattern::Qwen2), wanted, "{text:?}");
        }
        assert_eq!(words("ne\u{301}e", Pattern::Qwen2), ["ne", "\u{301}e"]);
        assert_eq!(words("ne\u{301}e", Pattern::Qwen35), ["ne\u{301}e"]);
    }
}
