//! Encodes words with a cache per thread.
//!
//! Most words of a text are short and repeat. They are cached by their bytes, as sixteen-byte keys, in a table that fits into a core's cache.
//! Only a word that is not cached is looked up in the vocabulary or merged.

use crate::data::tokenizer::bpe::merge_all;
use crate::data::tokenizer::bpe_vocabulary::{BpeVocabulary, hash};
use crate::data::tokenizer::pretokenize::WordIter;

/// A thread's cache of encoded words.
#[derive(Debug)]
pub struct WordCache {
    short: Box<[ShortSlot]>,
    long: Box<[LongWord]>,
    symbols: Vec<u32>,
}

/// Pairs of words of up to 15 bytes and 3 tokens; 64 bytes each, 2 MiB in total.
const SHORT: usize = 1 << 15;
const SHORT_TOKENS: usize = 3;

/// Words whose slots are fetched together.
const AHEAD: usize = 16;

/// Two words of one slot, the newer first, in one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct ShortSlot([ShortWord; 2]);

/// Longer words or words of more tokens; 128 bytes each, 2 MiB in total.
const LONG: usize = 1 << 14;
const LONG_BYTES: usize = 62;
const LONG_TOKENS: usize = 16;

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
struct ShortWord {
    /// Key from [`WordIter::next_key`]; 0 if empty.
    key: u128,
    tokens: [u32; SHORT_TOKENS],
    count: u32,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
struct LongWord {
    length: u8,
    count: u8,
    word: [u8; LONG_BYTES],
    tokens: [u32; LONG_TOKENS],
}

impl Default for WordCache {
    fn default() -> WordCache {
        WordCache {
            short: vec![ShortSlot::default(); SHORT].into_boxed_slice(),
            long: vec![LongWord { length: 0, count: 0, word: [0; LONG_BYTES], tokens: [0; LONG_TOKENS] }; LONG].into_boxed_slice(),
            symbols: Vec::new(),
        }
    }
}

impl WordCache {
    /// Appends the tokens of a text in NFC.
    pub(crate) fn encode_words(&mut self, vocabulary: &BpeVocabulary, text: &str, ids: &mut Vec<u32>) {
        let mut words = WordIter::new(text, vocabulary.pattern);
        // A slot comes from memory that is slower than the work on a word. So the slots of several words are fetched before the first is read.
        let mut ahead: [(&[u8], u128, usize); AHEAD] = [(&[], 0, 0); AHEAD];
        loop {
            let mut count = 0;
            while count < AHEAD
                && let Some((word, key)) = words.next_key()
            {
                let at = slot_of(key) & (SHORT - 1);
                fetch(&self.short[at]);
                ahead[count] = (word, key, at);
                count += 1;
            }
            for (word, key, at) in ahead[..count].iter().copied() {
                let [newer, older] = &self.short[at].0;
                let found = if newer.key == key { newer } else { older };
                if found.key == key && key != 0 {
                    // Copying a fixed number of tokens is cheaper than copying the right number.
                    let end = ids.len() + found.count as usize;
                    ids.extend_from_slice(&found.tokens);
                    ids.truncate(end);
                } else {
                    self.encode_miss(vocabulary, word, key, at, ids);
                }
            }
            if count < AHEAD {
                return;
            }
        }
    }

    /// Appends the tokens of a word that is not in the cache, and adds it.
    fn encode_miss(&mut self, vocabulary: &BpeVocabulary, word: &[u8], key: u128, at: usize, ids: &mut Vec<u32>) {
        let begin = ids.len();
        self.encode_word(vocabulary, word, ids);
        let made = &ids[begin..];
        if made.len() <= SHORT_TOKENS && key != 0 {
            let mut new = ShortWord { key, count: made.len() as u32, ..ShortWord::default() };
            new.tokens[..made.len()].copy_from_slice(made);
            let slot = &mut self.short[at].0;
            *slot = [new, slot[0]];
        }
    }

    /// Appends the tokens of a word, from the vocabulary, the cache of long words or by merging.
    fn encode_word(&mut self, vocabulary: &BpeVocabulary, word: &[u8], ids: &mut Vec<u32>) {
        let hash = hash(word);
        if let Some(token) = vocabulary.word(word, hash) {
            ids.push(token);
            return;
        }
        let slot = &mut self.long[hash as usize & (LONG - 1)];
        if word.len() == slot.length as usize && slot.word[..word.len()] == *word {
            ids.extend_from_slice(&slot.tokens[..slot.count as usize]);
            return;
        }
        self.symbols.clear();
        self.symbols.extend(word.iter().map(|byte| vocabulary.byte(*byte)));
        merge_all(vocabulary, &mut self.symbols);
        if word.len() <= LONG_BYTES && self.symbols.len() <= LONG_TOKENS {
            slot.length = word.len() as u8;
            slot.count = self.symbols.len() as u8;
            slot.word[..word.len()].copy_from_slice(word);
            slot.tokens[..self.symbols.len()].copy_from_slice(&self.symbols);
        }
        ids.extend_from_slice(&self.symbols);
    }
}

/// Asks the processor for a slot that is read soon.
#[inline]
fn fetch(slot: &ShortSlot) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing, and every x86-64 has SSE.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(slot).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slot;
}

/// Both halves of a key, multiplied and folded.
#[inline]
fn slot_of(key: u128) -> usize {
    let (low, high) = (key as u64, (key >> 64) as u64);
    let product = u128::from(low ^ 0x9E37_79B9_7F4A_7C15) * u128::from(high ^ 0xD1B5_4A32_D192_ED03);
    (product as u64 ^ (product >> 64) as u64) as usize
}
