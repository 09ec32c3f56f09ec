//! The tables of a byte-level BPE tokenizer, flat, so that they can be read from a file without parsing.
//!
//! The file format is, in little-endian 64-bit words: MAGIC, the checksum (xxh3) of everything after it, the pattern's
//! number, then each table as its length in bytes and its bytes, padded to 8.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use xxhash_rust::xxh3::xxh3_64;

use crate::base::files;
use crate::data::tokenizer::bpe::{MergeTable, merge_all};
use crate::data::tokenizer::pretokenize::Pattern;

const MAGIC: u64 = u64::from_le_bytes(*b"pyrusBP2");
/// File extension of parsed tables. Another format gets another name, so that versions of this program do not overwrite each other's files.
pub(crate) const EXTENSION: &str = "tables2";
const EMPTY: u64 = u64::MAX;

/// Tokens by their bytes, and merges of pairs of tokens.
#[derive(Debug, PartialEq)]
pub(crate) struct BpeVocabulary {
    pub(crate) pattern: Pattern,
    /// The token of each single byte.
    bytes: Vec<u32>,
    /// End of each token's bytes in `text`. Tokens without bytes (added tokens) are empty.
    ends: Vec<u32>,
    text: Vec<u8>,
    /// Hash table with open addressing by `pair_slot`: left and right of a pair, or EMPTY; then its rank and merged token.
    pairs: Vec<[u64; 2]>,
    /// Hash table with open addressing by a hash of bytes: upper half of the hash and the token, or EMPTY. Contains the tokens that are whole words.
    words: Vec<u64>,
}

/// The parsed `tokenizer.json` of such a tokenizer.
pub(crate) struct ParsedBpe {
    pub pattern: Pattern,
    pub vocabulary: HashMap<String, u32>,
    pub merges: Vec<(String, String)>,
    pub ignore_merges: bool,
}

impl BpeVocabulary {
    /// Builds the tables; `None` if a byte has no token or a merge has no result, so that it is not a byte-level BPE.
    pub(crate) fn build(parsed: &ParsedBpe) -> Option<BpeVocabulary> {
        let unspelled = ByteSpelling::new();
        let count = parsed.vocabulary.values().max().map_or(0, |last| *last as usize + 1);
        let mut contents: Vec<Option<Vec<u8>>> = vec![None; count];
        for (token, id) in &parsed.vocabulary {
            contents[*id as usize] = unspelled.bytes(token);
        }
        let mut made = BpeVocabulary {
            pattern: parsed.pattern,
            bytes: (0..=255u8).map(|byte| parsed.vocabulary.get(&unspelled.spell(byte)).copied()).collect::<Option<_>>()?,
            ends: Vec::with_capacity(count),
            text: Vec::new(),
            pairs: vec![[EMPTY; 2]; (parsed.merges.len() * 3 / 2).next_power_of_two().max(16)],
            words: vec![EMPTY; (count * 3 / 2).next_power_of_two().max(16)],
        };
        for content in &contents {
            made.text.extend(content.iter().flatten());
            made.ends.push(u32::try_from(made.text.len()).ok()?);
        }
        let mut joined = String::new();
        for (rank, (left, right)) in parsed.merges.iter().enumerate() {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let id = |token: &str| parsed.vocabulary.get(token).copied();
            let (left, right, outcome) = (id(left)?, id(right)?, id(&joined)?);
            let key = u64::from(left) << 32 | u64::from(right);
            let mut slot = pair_slot(key, made.pairs.len());
            while made.pairs[slot][0] != EMPTY && made.pairs[slot][0] != key {
                slot = (slot + 1) & (made.pairs.len() - 1);
            }
            made.pairs[slot] = [key, (rank as u64) << 32 | u64::from(outcome)];
        }
        let mut symbols = Vec::new();
        for (id, content) in contents.iter().enumerate() {
            let Some(content) = content.as_ref().filter(|content| !content.is_empty()) else { continue };
            // Merging a token's bytes does not always give that token, even if it is in the vocabulary.
            symbols.clear();
            symbols.extend(content.iter().map(|byte| made.bytes[*byte as usize]));
            if !parsed.ignore_merges {
                merge_all(&made, &mut symbols);
            }
            if parsed.ignore_merges || symbols == [id as u32] {
                let hash = hash(content);
                let mut slot = hash as usize & (made.words.len() - 1);
                while made.words[slot] != EMPTY {
                    slot = (slot + 1) & (made.words.len() - 1);
                }
                made.words[slot] = hash >> 32 << 32 | id as u64;
            }
        }
        Some(made)
    }

    /// A number that is larger than all ids.
    pub(crate) fn size(&self) -> u32 {
        self.ends.len() as u32
    }

    /// The bytes of a token.
    #[inline]
    pub(crate) fn content(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let start = if token == 0 { 0 } else { self.ends[token - 1] as usize };
        &self.text[start..self.ends[token] as usize]
    }

    /// The token of a whole word, if there is one.
    #[inline]
    pub(crate) fn word(&self, word: &[u8], hash: u64) -> Option<u32> {
        let mask = self.words.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            let found = self.words[slot];
            if found == EMPTY {
                return None;
            }
            if found >> 32 == hash >> 32 && self.content(found as u32) == word {
                return Some(found as u32);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The token of a single byte.
    #[inline]
    pub(crate) fn byte(&self, byte: u8) -> u32 {
        self.bytes[byte as usize]
    }

    /// Reads a file of parsed tables; `None` if it is missing or damaged.
    pub(crate) fn read(path: &Path) -> Option<BpeVocabulary> {
        let file = std::fs::read(path).ok()?;
        let word = |at: usize| file.get(at..at + 8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        if word(0)? != MAGIC || word(8)? != xxh3_64(&file[16..]) {
            return None;
        }
        let pattern = Pattern::from_number(word(16)?)?;
        let mut at = 24;
        let mut table = || {
            let length = usize::try_from(word(at)?).ok()?;
            let bytes = file.get(at + 8..at + 8 + length)?;
            at += 8 + length.next_multiple_of(8);
            Some(bytes)
        };
        let narrow = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect::<Vec<u32>>();
        let wide = |bytes: &[u8]| bytes.as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight)).collect::<Vec<u64>>();
        Some(BpeVocabulary {
            pattern,
            bytes: narrow(table()?),
            ends: narrow(table()?),
            text: table()?.to_vec(),
            pairs: wide(table()?).as_chunks().0.to_vec(),
            words: wide(table()?),
        })
    }

    /// Writes the tables for `read`.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut body = (self.pattern as u64).to_le_bytes().to_vec();
        let narrow = |table: &[u32]| Cow::from(table.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        let wide = |table: &[u64]| Cow::from(table.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
        let pairs = self.pairs.as_flattened();
        for table in [narrow(&self.bytes), narrow(&self.ends), Cow::from(&self.text), wide(pairs), wide(&self.words)] {
            body.extend((table.len() as u64).to_le_bytes());
            body.extend(table.iter());
            body.resize(body.len().next_multiple_of(8), 0);
        }
        let mut file = MAGIC.to_le_bytes().to_vec();
        file.extend(xxh3_64(&body).to_le_bytes());
        file.extend(body);
        files::write_whole(path, &file)
    }
}

impl MergeTable for BpeVocabulary {
    #[inline]
    fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let key = u64::from(left) << 32 | u64::from(right);
        let mut slot = pair_slot(key, self.pairs.len());
        loop {
            let [found, outcome] = self.pairs[slot];
            if found == key {
                return Some(((outcome >> 32) as u32, outcome as u32));
            }
            if found == EMPTY {
                return None;
            }
            slot = (slot + 1) & (self.pairs.len() - 1);
        }
    }
}

/// The hash by which words are found.
#[inline]
pub(crate) fn hash(word: &[u8]) -> u64 {
    xxh3_64(word)
}

/// Fibonacci hashing.
#[inline]
fn pair_slot(key: u64, slots: usize) -> usize {
    (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize & (slots - 1)
}

/// The mapping of bytes to characters in byte-level BPE (GPT-2's `bytes_to_unicode`): printable Latin-1 as itself, others from U+0100 on.
pub(crate) struct ByteSpelling {
    of_byte: [char; 256],
    of_char: HashMap<char, u8>,
}

impl ByteSpelling {
    pub(crate) fn new() -> ByteSpelling {
        let mut others = 0x100;
        let of_byte = std::array::from_fn(|byte| {
            if matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) {
                char::from(byte as u8)
            } else {
                others += 1;
                char::from_u32(others - 1).unwrap_or_default()
            }
        });
        ByteSpelling { of_byte, of_char: of_byte.iter().enumerate().map(|(byte, spelled)| (*spelled, byte as u8)).collect() }
    }

    /// A text in byte-level form.
    pub(crate) fn spell_all(&self, text: &str) -> String {
        text.bytes().map(|byte| self.of_byte[byte as usize]).collect()
    }

    fn spell(&self, byte: u8) -> String {
        self.of_byte[byte as usize].to_string()
    }

    /// The bytes of a token in byte-level form; `None` if it contains another character (an added token).
    pub(crate) fn bytes(&self, token: &str) -> Option<Vec<u8>> {
        token.chars().map(|c| self.of_char.get(&c).copied()).collect()
    }
}
