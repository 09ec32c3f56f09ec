//! Classifies sixteen bytes of text at once. Most words are shorter, and are found without looking at single bytes.

pub(crate) const BLOCK: usize = 16;

/// Bit masks of character classes over sixteen bytes. The first byte is the lowest bit. Letters, digits and so on are ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteClasses {
    letters: u32,
    digits: u32,
    /// Any whitespace.
    spaces: u32,
    blanks: u32,
    newlines: u32,
    /// Bytes of non-ASCII characters.
    wide: u32,
}

impl ByteClasses {
    /// The length of the word at the start of the bytes, or 0 if undecided: non-ASCII characters, words that may continue after the
    /// block, contractions, whitespace other than blanks and lines. (The pattern is in `pretokenize`.)
    #[inline]
    pub(crate) fn word(self, first: u8) -> usize {
        let ByteClasses { letters, digits, spaces, blanks, newlines, wide } = self;
        // Whitespace up to the last newline of its run.
        let run = (!spaces).trailing_zeros();
        let ends = newlines & ((1 << run) - 1);
        if ends != 0 {
            let decided = run < BLOCK as u32 && wide >> run & 1 == 0;
            return if decided { ends.ilog2() as usize + 1 } else { 0 };
        }
        let others = !(letters | digits | spaces | wide) & ((1 << BLOCK) - 1);
        // End of a run that contains the second byte; the first may be any byte.
        let run_end = |set: u32| (!(set >> 1)).trailing_zeros() + 1;
        // Letters, optionally after one character that is not a letter, digit or newline.
        let lettered = (letters | (!(digits | newlines | wide) & letters >> 1)) & 1 != 0;
        // Blanks without the last, which belongs to the next word.
        let blank = blanks & blanks >> 1 & 1 != 0;
        // Other characters, optionally after a blank, with the newlines after them.
        let other = (others | (blanks & others >> 1)) & 1 != 0;
        let end = if lettered {
            run_end(letters)
        } else if blank {
            run_end(blanks)
        } else {
            let end = run_end(others);
            end + (!(newlines >> end)).trailing_zeros()
        };
        // The next byte must be in the block and ASCII. After blanks it must not be other whitespace, which would belong to the same run.
        let decided = end < BLOCK as u32 && (wide | if blank { spaces } else { 0 }) >> end & 1 == 0;
        if digits & 1 != 0 {
            1
        } else if (lettered && first != b'\'' || !lettered && (blank || other)) && decided {
            end as usize - usize::from(blank && !lettered)
        } else {
            0
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    pub(crate) fn of(block: u128) -> ByteClasses {
        // SAFETY: every x86-64 has SSE2.
        unsafe { ByteClasses::by_sse2(block) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "sse2")]
    fn by_sse2(block: u128) -> ByteClasses {
        use std::arch::x86_64::{
            __m128i, _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8, _mm_sub_epi8,
        };
        // The comparison is signed, so ranges are shifted to start at the lowest value.
        let bytes = _mm_set_epi64x((block >> 64) as i64, block as i64);
        let bits = |found: __m128i| _mm_movemask_epi8(found) as u32;
        let every = |byte: u8| _mm_set1_epi8(byte as i8);
        let between = |bytes: __m128i, first: u8, last: u8| {
            let moved = _mm_sub_epi8(bytes, every(first.wrapping_add(0x80)));
            bits(_mm_cmplt_epi8(moved, every((last - first + 1).wrapping_add(0x80))))
        };
        let equal = |byte: u8| bits(_mm_cmpeq_epi8(bytes, every(byte)));
        let blanks = equal(b' ');
        ByteClasses {
            letters: between(_mm_or_si128(bytes, every(0x20)), b'a', b'z'),
            digits: between(bytes, b'0', b'9'),
            spaces: between(bytes, b'\t', b'\r') | blanks,
            blanks,
            newlines: equal(b'\n') | equal(b'\r'),
            wide: bits(bytes),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn of(block: u128) -> ByteClasses {
        ByteClasses::by_bytes(block)
    }

    #[cfg(any(test, not(target_arch = "x86_64")))]
    fn by_bytes(block: u128) -> ByteClasses {
        let bits =
            |wanted: fn(u8) -> bool| block.to_le_bytes().iter().enumerate().fold(0, |bits, (i, byte)| bits | u32::from(wanted(*byte)) << i);
        ByteClasses {
            letters: bits(|byte| byte.is_ascii_alphabetic()),
            digits: bits(|byte| byte.is_ascii_digit()),
            spaces: bits(|byte| matches!(byte, b'\t'..=b'\r' | b' ')),
            blanks: bits(|byte| byte == b' '),
            newlines: bits(|byte| matches!(byte, b'\n' | b'\r')),
            wide: bits(|byte| !byte.is_ascii()),
        }
    }
}

/// Key of a word: its first `length` bytes, then zeros, and the length as the last byte; 0 if the word fills the block.
#[inline]
pub(crate) fn key(block: u128, length: usize) -> u128 {
    match KEPT.get(length) {
        Some(kept) => block & kept | (length as u128) << 120,
        None => 0,
    }
}

const KEPT: [u128; BLOCK] = {
    let mut kept = [0; BLOCK];
    let mut length = 0;
    while length < BLOCK {
        kept[length] = (1 << (8 * length)) - 1;
        length += 1;
    }
    kept
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn vector_and_scalar_classification_agree(block: [u8; BLOCK]) {
            let block = u128::from_le_bytes(block);
            prop_assert_eq!(ByteClasses::of(block), ByteClasses::by_bytes(block));
        }
    }
}
